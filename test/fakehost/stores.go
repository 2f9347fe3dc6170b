package fakehost

import (
	"context"
	"fmt"
	"io"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
)

type images struct{ h *Host }

func (i images) List(context.Context) ([]dayfly.Image, error) {
	i.h.mu.Lock()
	defer i.h.mu.Unlock()
	list := []dayfly.Image{{Name: Base, Digest: "sha256:0123456789abcdef", Platform: "linux/amd64", Size: 3 << 20}}
	for name := range i.h.pulled {
		list = append(list, dayfly.Image{Name: name, Platform: "linux/amd64"})
	}
	return list, nil
}

func (i images) Get(ctx context.Context, name string) (dayfly.Image, error) {
	list, _ := i.List(ctx)
	for _, im := range list {
		if im.Name == name {
			return im, nil
		}
	}
	return dayfly.Image{}, dayfly.Errorf(dayfly.NotFound, "there is no image %s", name)
}

func (i images) Remove(ctx context.Context, name string) error {
	if _, err := i.Get(ctx, name); err != nil {
		return err
	}
	i.h.mu.Lock()
	defer i.h.mu.Unlock()
	delete(i.h.pulled, name)
	return nil
}

func (i images) Pull(_ context.Context, p api.PullImage, report api.Report) (dayfly.Image, error) {
	report(dayfly.Progress{Step: "layer", Done: 0, Total: 1 << 20})
	if p.Reference == Private {
		return dayfly.Image{}, dayfly.Errorf(dayfly.Denied, "the registry refuses %s: docker login", p.Reference)
	}
	report(dayfly.Progress{Step: "layer", Done: 1 << 20, Total: 1 << 20})
	i.h.mu.Lock()
	defer i.h.mu.Unlock()
	i.h.pulled[p.Reference] = true
	return dayfly.Image{Name: p.Reference, Digest: "sha256:feed", Platform: p.Platform, Size: 1 << 20}, nil
}

func (i images) Import(_ context.Context, p api.ImportImageParams, archive io.Reader, report api.Report) ([]dayfly.Image, error) {
	report(dayfly.Progress{Step: "read"})
	n, err := io.Copy(io.Discard, archive)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, dayfly.Errorf(dayfly.Invalid, "the archive is empty")
	}
	return []dayfly.Image{{Name: p.Name, Platform: p.Platform, Size: n}}, nil
}

func (i images) Build(_ context.Context, b api.BuildImage, report api.Report) (dayfly.Image, error) {
	if b.Recipe != Base {
		return dayfly.Image{}, dayfly.Errorf(dayfly.NotFound, "no recipe %q", b.Recipe)
	}
	report(dayfly.Progress{Step: "packages"})
	return dayfly.Image{Name: Base, Digest: "sha256:beef", Size: 2 << 20}, nil
}

type kernels struct{}

func (kernels) List(context.Context) ([]dayfly.Kernel, error) {
	return []dayfly.Kernel{
		{ID: "6.12-d", Release: "6.12", Flavour: "distribution", Size: 1 << 20},
		{ID: "6.12-t", Release: "6.12", Flavour: "tuned", Preferred: true, Size: 1 << 20},
	}, nil
}

func (kernels) Import(_ context.Context, deb io.Reader, report api.Report) (dayfly.Kernel, error) {
	report(dayfly.Progress{Step: "unpack"})
	n, err := io.Copy(io.Discard, deb)
	return dayfly.Kernel{ID: fmt.Sprintf("deb-%d", n), Flavour: "distribution"}, err
}

func (kernels) Build(_ context.Context, report api.Report) (dayfly.Kernel, error) {
	report(dayfly.Progress{Step: "compile", Done: 1, Total: 2})
	report(dayfly.Progress{Step: "compile", Done: 2, Total: 2})
	return dayfly.Kernel{ID: "built", Flavour: "tuned", Preferred: true}, nil
}
