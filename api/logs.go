package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

const (
	maxTail    = 1_000_000
	maxLogLine = 64 << 10 // longer ones are sent in parts
	logChunk   = 32 << 10
)

// GetLogs answers GET /v1/workspaces/{id}/logs.
func (s routes) GetLogs(w http.ResponseWriter, r *http.Request, id WorkspaceID, p GetLogsParams) {
	s.try(w, r, s.o.Logs != nil, lacking("logs"), func() error {
		id, err := s.resolve(r, id)
		if err != nil {
			return err
		}
		q, err := logQuery(p)
		if err != nil {
			return err
		}
		if !wantsEvents(r) {
			return s.plainLog(w, r, id, q)
		}
		s.stream(w, r, func(ctx context.Context, out *sse) error {
			log, err := s.openLog(ctx, id, q)
			if err != nil {
				return err
			}
			defer log.Close()
			if err := out.begin(); err != nil {
				return err
			}
			return eachLine(log, func(line string) error { return out.send(event{name: "log", data: line}) })
		})
		return nil
	})
}

func logQuery(p GetLogsParams) (dayfly.LogQuery, error) {
	q := dayfly.LogQuery{Source: p.Source, Tail: p.Tail, Follow: p.Follow}
	if q.Source == "" {
		q.Source = dayfly.BootLog
	}
	if q.Tail < 0 || q.Tail > maxTail {
		return q, dayfly.Errorf(dayfly.Invalid, "tail is %d: use 0 for all, or up to %d lines", q.Tail, maxTail)
	}
	return q, oneOf("source", q.Source, dayfly.BootLog, dayfly.CommandLog)
}

// openLog opens a log that is closed, and so read to its end, when ctx ends.
func (s *Server) openLog(ctx context.Context, id dayfly.ID, q dayfly.LogQuery) (io.ReadCloser, error) {
	log, err := s.o.Logs.Log(ctx, id, q)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = log.Close() })
	return &opened{log, stop}, nil
}

type opened struct {
	io.ReadCloser
	stop func() bool
}

func (o *opened) Close() error {
	o.stop()
	return o.ReadCloser.Close()
}

// plainLog sends a log as it is.
func (s *Server) plainLog(w http.ResponseWriter, r *http.Request, id dayfly.ID, q dayfly.LogQuery) error {
	log, err := s.openLog(r.Context(), id, q)
	if err != nil {
		return err
	}
	defer log.Close()
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	buf := make([]byte, logChunk)
	for {
		n, readErr := log.Read(buf)
		if n > 0 {
			_ = rc.SetWriteDeadline(time.Now().Add(streamTimeout))
			if _, err := w.Write(buf[:n]); err != nil {
				return nil //nolint:nilerr // nobody reads: nothing left to tell
			}
			_ = rc.Flush()
		}
		if readErr != nil {
			if !errors.Is(readErr, io.EOF) && r.Context().Err() == nil {
				s.logRefusal(r, public(readErr), readErr)
				panic(http.ErrAbortHandler) // the reply has begun: cutting it is the only way to say so
			}
			return nil
		}
	}
}

// eachLine calls do with every line, without its end, in parts of at most maxLogLine.
func eachLine(r io.Reader, do func(string) error) error {
	in := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			if err := do(strings.ToValidUTF8(strings.TrimRight(string(line), "\r\n"), "\uFFFD")); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// Bounds on the seconds between two metrics of a stream.
const (
	defaultInterval = 5
	maxInterval     = 3600
)

// GetMetrics answers GET /v1/workspaces/{id}/metrics.
func (s routes) GetMetrics(w http.ResponseWriter, r *http.Request, id WorkspaceID, p GetMetricsParams) {
	s.try(w, r, s.o.Meter != nil, lacking("metrics"), func() error {
		id, err := s.resolve(r, id)
		if err != nil {
			return err
		}
		every := defaultInterval
		if p.Interval != nil {
			every = *p.Interval
		}
		if every < 1 || every > maxInterval {
			return dayfly.Errorf(dayfly.Invalid, "interval is %d s: use 1 to %d", every, maxInterval)
		}
		if wantsEvents(r) {
			s.stream(w, r, func(ctx context.Context, out *sse) error {
				return s.meter(ctx, out, id, time.Duration(every)*time.Second)
			})
			return nil
		}
		m, err := s.o.Meter.Metrics(r.Context(), id)
		if err == nil {
			s.reply(w, r, http.StatusOK, m)
		}
		return err
	})
}

// meter sends metrics until the workspace, or the caller, has had enough.
func (s *Server) meter(ctx context.Context, out *sse, id dayfly.ID, every time.Duration) error {
	for {
		m, err := s.o.Meter.Metrics(ctx, id)
		if err != nil {
			return err
		}
		if err := out.send(event{name: "metrics", data: m}); err != nil {
			return err
		}
		if err := sleep(ctx, every); err != nil {
			return err
		}
	}
}
