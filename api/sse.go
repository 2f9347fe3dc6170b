package api

import (
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	eventStream = "text/event-stream"

	// heartbeat is how long a stream is silent, at most: what stands between
	// takes longer silence for an end.
	heartbeat = 15 * time.Second

	// streamTimeout is how long a reader may take nothing until it is cut off.
	// What it has not read is not kept for it.
	streamTimeout = 30 * time.Second
)

// wantsEvents says whether a caller asks for server-sent events before all else.
func wantsEvents(r *http.Request) bool {
	first, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	mt, _, _ := mime.ParseMediaType(first)
	return mt == eventStream
}

// sse is a reply of server-sent events. Its methods may be called at the same time.
type sse struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	mu    sync.Mutex
	begun bool
	err   error // of the first write that failed
}

// event is one of a stream. ID 0 is none.
type event struct {
	id   int64
	name string
	data any
}

// stream answers r with the events that do sends, and what do returns in the
// end: before the first event that is a refusal, after it an event named error.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, do func(context.Context, *sse) error) {
	ctx, cancel := context.WithCancel(r.Context())
	out := &sse{w: w, rc: http.NewResponseController(w)}
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		out.beat(ctx, cancel)
	}()
	err := do(ctx, out)
	cancel()
	<-beating
	if err == nil {
		return
	}
	out.mu.Lock()
	begun, broken := out.begun, out.err
	out.mu.Unlock()
	if !begun {
		s.refuse(w, r, err)
		return
	}
	e, status := refusalOf(r.Context(), err)
	s.logRefusal(r, e, err)
	if broken == nil {
		_ = out.send(event{name: "error", data: problemOf(r, e, status)})
	}
}

// beat keeps the stream from being silent until ctx ends, which it brings about
// when nobody reads.
func (out *sse) beat(ctx context.Context, cancel func()) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if !out.mu.TryLock() { // something is being sent: that is no silence
				continue
			}
			if out.begun && out.put([]byte(": still there\n\n")) != nil {
				cancel()
			}
			out.mu.Unlock()
		}
	}
}

// begin sends the headers, so that the caller knows that it listens.
func (out *sse) begin() error { return out.write([]byte(": dayfly\n\n")) }

// mark is begin for a stream that goes on after an event: a reader that comes back
// before it has got another says so.
func (out *sse) mark(id int64) error {
	return out.write(append(strconv.AppendInt([]byte("id: "), id, 10), "\n\n"...))
}

// send sends an event. An error is final: nobody reads any more.
func (out *sse) send(e event) error {
	data, err := json.Marshal(e.data)
	if err != nil {
		return err
	}
	var b []byte
	if e.id != 0 {
		b = append(strconv.AppendInt(append(b, "id: "...), e.id, 10), '\n')
	}
	b = append(append(append(b, "event: "...), e.name...), "\ndata: "...)
	return out.write(append(append(b, data...), "\n\n"...)) // JSON holds no newline
}

func (out *sse) write(b []byte) error {
	out.mu.Lock()
	defer out.mu.Unlock()
	return out.put(b)
}

// put is write for whoever holds mu.
func (out *sse) put(b []byte) error {
	if out.err != nil {
		return out.err
	}
	if !out.begun {
		out.begun = true
		h := out.w.Header()
		h.Set("Content-Type", eventStream)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no") // nginx would gather it
		h.Set("X-Content-Type-Options", "nosniff")
		out.w.WriteHeader(http.StatusOK)
	}
	_ = out.rc.SetWriteDeadline(time.Now().Add(streamTimeout))
	_, out.err = out.w.Write(b)
	if out.err == nil {
		if err := out.rc.Flush(); !errors.Is(err, http.ErrNotSupported) {
			out.err = err
		}
	}
	return out.err
}
