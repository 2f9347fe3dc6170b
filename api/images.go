package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"github.com/dayfly/dayfly"
)

// maxUpload bounds an uploaded archive. Whoever unpacks it has tighter bounds on
// what it unpacks to.
const maxUpload = 256 << 30

var errNoImages = lacking("images")

// ListImages answers GET /v1/images.
func (s routes) ListImages(w http.ResponseWriter, r *http.Request) {
	s.withImages(w, r, func(im Images) error {
		list, err := im.List(r.Context())
		if err == nil {
			slices.SortStableFunc(list, func(a, b dayfly.Image) int { return cmp.Compare(a.Name, b.Name) })
			s.reply(w, r, http.StatusOK, ImageList{Images: orEmpty(list)})
		}
		return err
	})
}

// GetImage answers GET /v1/images/{name}.
func (s routes) GetImage(w http.ResponseWriter, r *http.Request, name string) {
	s.withImages(w, r, func(im Images) error {
		image, err := im.Get(r.Context(), name)
		if err == nil {
			s.reply(w, r, http.StatusOK, image)
		}
		return err
	})
}

// RemoveImage answers DELETE /v1/images/{name}.
func (s routes) RemoveImage(w http.ResponseWriter, r *http.Request, name string) {
	s.withImages(w, r, func(im Images) error {
		exchangeOf(r).target = clip(name)
		err := im.Remove(r.Context(), name)
		if err == nil {
			noContent(w)
		}
		return err
	})
}

// PullImage answers POST /v1/images/pull.
func (s routes) PullImage(w http.ResponseWriter, r *http.Request) {
	s.withImages(w, r, func(im Images) error {
		var p PullImage
		if err := readJSON(w, r, &p); err != nil {
			return err
		}
		if p.Reference == "" {
			return dayfly.Errorf(dayfly.Invalid, "reference is empty: name an image, such as alpine:3.22")
		}
		s.imageWork(w, r, func(ctx context.Context, report Report) (dayfly.Image, error) {
			return im.Pull(ctx, p, report)
		})
		return nil
	})
}

// ImportImage answers POST /v1/images/import.
func (s routes) ImportImage(w http.ResponseWriter, r *http.Request, p ImportImageParams) {
	s.withImages(w, r, func(im Images) error {
		body := http.MaxBytesReader(w, r.Body, maxUpload)
		s.work(w, r, func(ctx context.Context, report Report) (WorkLine, error) {
			images, err := im.Import(ctx, p, body, report)
			return WorkLine{Images: images}, err
		})
		return nil
	})
}

// BuildImage answers POST /v1/images/build.
func (s routes) BuildImage(w http.ResponseWriter, r *http.Request) {
	s.withImages(w, r, func(im Images) error {
		var b BuildImage
		if err := readJSON(w, r, &b); err != nil {
			return err
		}
		if b.Recipe == "" {
			return dayfly.Errorf(dayfly.Invalid, "recipe is empty: name one, such as base")
		}
		s.imageWork(w, r, func(ctx context.Context, report Report) (dayfly.Image, error) {
			return im.Build(ctx, b, report)
		})
		return nil
	})
}

func (s *Server) imageWork(w http.ResponseWriter, r *http.Request, do func(context.Context, Report) (dayfly.Image, error)) {
	s.work(w, r, func(ctx context.Context, report Report) (WorkLine, error) {
		image, err := do(ctx, report)
		return WorkLine{Image: &image}, err
	})
}

// withImages answers r with do's error, if this server has images.
func (s *Server) withImages(w http.ResponseWriter, r *http.Request, do func(Images) error) {
	err := errNoImages
	if s.o.Images != nil {
		err = do(s.o.Images)
	}
	if err != nil {
		s.refuse(w, r, err)
	}
}
