package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/dayfly/dayfly"
)

var errNoKernels = lacking("kernels")

// ListKernels answers GET /v1/kernels.
func (s routes) ListKernels(w http.ResponseWriter, r *http.Request) {
	s.withKernels(w, r, func(k Kernels) error {
		list, err := k.List(r.Context())
		if err == nil {
			slices.SortStableFunc(list, preferredFirst)
			s.reply(w, r, http.StatusOK, KernelList{Kernels: orEmpty(list)})
		}
		return err
	})
}

func preferredFirst(a, b dayfly.Kernel) int {
	switch {
	case a.Preferred == b.Preferred:
		return 0
	case a.Preferred:
		return -1
	}
	return 1
}

// ImportKernel answers POST /v1/kernels/import.
func (s routes) ImportKernel(w http.ResponseWriter, r *http.Request) {
	s.withKernels(w, r, func(k Kernels) error {
		body := http.MaxBytesReader(w, r.Body, maxUpload)
		s.kernelWork(w, r, func(ctx context.Context, report Report) (dayfly.Kernel, error) {
			return k.Import(ctx, body, report)
		})
		return nil
	})
}

// BuildKernel answers POST /v1/kernels/build.
func (s routes) BuildKernel(w http.ResponseWriter, r *http.Request) {
	s.withKernels(w, r, func(k Kernels) error {
		s.kernelWork(w, r, k.Build)
		return nil
	})
}

func (s *Server) kernelWork(w http.ResponseWriter, r *http.Request, do func(context.Context, Report) (dayfly.Kernel, error)) {
	s.work(w, r, func(ctx context.Context, report Report) (WorkLine, error) {
		kernel, err := do(ctx, report)
		return WorkLine{Kernel: &kernel}, err
	})
}

// withKernels answers r with do's error, if this server has kernels.
func (s *Server) withKernels(w http.ResponseWriter, r *http.Request, do func(Kernels) error) {
	err := errNoKernels
	if s.o.Kernels != nil {
		err = do(s.o.Kernels)
	}
	if err != nil {
		s.refuse(w, r, err)
	}
}
