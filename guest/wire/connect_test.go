package wire_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dayfly/dayfly/guest/wire"
)

// The other implementation of Connect, connectrpc.com/connect, is the
// counterpart in these tests: its client calls our server, and our client its
// server.

// plainJSON is connect's JSON codec for plain structs.
type plainJSON struct{}

func (plainJSON) Name() string                         { return "json" }
func (plainJSON) Marshal(msg any) ([]byte, error)      { return json.Marshal(msg) }
func (plainJSON) Unmarshal(data []byte, msg any) error { return json.Unmarshal(data, msg) }

type ask struct {
	Text string `json:"text"`
	Fail string `json:"fail"`
}

type answer struct {
	Text string `json:"text"`
}

func failure(a *ask) error {
	if a.Fail == "" {
		return nil
	}
	return wire.NewStartFailure(wire.ExitNotFound, "no %s here", a.Fail)
}

// ours is our server: /u is unary, /s streams each word back, /c joins what it
// is sent, /slow waits for the end of the call.
func ours(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/u":
		wire.ServeUnary(w, r, func(_ context.Context, a *ask) (*answer, error) {
			return &answer{a.Text}, failure(a)
		})
	case "/s":
		wire.ServeStream(w, r, func(_ context.Context, a *ask, s *wire.ResponseStream) error {
			for _, word := range strings.Fields(a.Text) {
				if err := s.Send(answer{word}); err != nil {
					return err
				}
			}
			return failure(a)
		})
	case "/c":
		wire.ServeClientStream(w, r, func(_ context.Context, s *wire.RequestStream) (*answer, error) {
			var out answer
			for {
				var a ask
				err := s.Receive(&a)
				if errors.Is(err, io.EOF) {
					return &out, nil
				}
				if err == nil {
					err = failure(&a)
				}
				if err != nil {
					return nil, err
				}
				out.Text += a.Text
			}
		})
	case "/slow":
		wire.ServeStream(w, r, func(ctx context.Context, _ *ask, s *wire.ResponseStream) error {
			_ = s.Send(answer{"first"})
			<-ctx.Done()
			return ctx.Err()
		})
	}
}

// theirs is the same server, written with connect.
func theirs() http.Handler {
	codec := connect.WithCodec(plainJSON{})
	fail := func(a *ask) error {
		if a.Fail == "" {
			return nil
		}
		return connect.NewError(connect.CodeInvalidArgument, errors.New("no "+a.Fail+" here"))
	}
	mux := http.NewServeMux()
	mux.Handle("/u", connect.NewUnaryHandler("/u", func(_ context.Context, r *connect.Request[ask]) (*connect.Response[answer], error) {
		return connect.NewResponse(&answer{r.Msg.Text}), fail(r.Msg)
	}, codec))
	mux.Handle("/s", connect.NewServerStreamHandler("/s", func(_ context.Context, r *connect.Request[ask], s *connect.ServerStream[answer]) error {
		for _, word := range strings.Fields(r.Msg.Text) {
			if err := s.Send(&answer{word}); err != nil {
				return err
			}
		}
		return fail(r.Msg)
	}, codec))
	mux.Handle("/c", connect.NewClientStreamHandler("/c", func(_ context.Context, s *connect.ClientStream[ask]) (*connect.Response[answer], error) {
		var out answer
		for s.Receive() {
			if err := fail(s.Msg()); err != nil {
				return nil, err
			}
			out.Text += s.Msg().Text
		}
		return connect.NewResponse(&out), s.Err()
	}, codec))
	mux.Handle("/slow", connect.NewServerStreamHandler("/slow", func(ctx context.Context, _ *connect.Request[ask], s *connect.ServerStream[answer]) error {
		_ = s.Send(&answer{"first"})
		<-ctx.Done()
		return ctx.Err()
	}, codec))
	return mux
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func connectClient(url, procedure string, opts ...connect.ClientOption) *connect.Client[ask, answer] {
	return connect.NewClient[ask, answer](http.DefaultClient, url+procedure, append(opts, connect.WithCodec(plainJSON{}))...)
}

func TestConnectsClientCallsOurServer(t *testing.T) {
	t.Parallel()
	url := serve(t, http.HandlerFunc(ours))

	t.Run("unary", func(t *testing.T) {
		resp, err := connectClient(url, "/u").CallUnary(t.Context(), connect.NewRequest(&ask{Text: "hej"}))
		if err != nil || resp.Msg.Text != "hej" {
			t.Fatalf("got %v, %v", resp, err)
		}
	})
	t.Run("unary error with detail", func(t *testing.T) {
		_, err := connectClient(url, "/u").CallUnary(t.Context(), connect.NewRequest(&ask{Fail: "cat"}))
		checkConnectError(t, err)
	})
	t.Run("server stream", func(t *testing.T) {
		s, err := connectClient(url, "/s").CallServerStream(t.Context(), connect.NewRequest(&ask{Text: "a b c", Fail: "cat"}))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for s.Receive() {
			got = append(got, s.Msg().Text)
		}
		if strings.Join(got, "") != "abc" {
			t.Errorf("got %q", got)
		}
		checkConnectError(t, s.Err())
	})
	t.Run("client stream", func(t *testing.T) {
		s := connectClient(url, "/c").CallClientStream(t.Context())
		for _, w := range []string{"a", "b", "c"} {
			if err := s.Send(&ask{Text: w}); err != nil {
				t.Fatal(err)
			}
		}
		resp, err := s.CloseAndReceive()
		if err != nil || resp.Msg.Text != "abc" {
			t.Fatalf("got %v, %v", resp, err)
		}
	})
	t.Run("client stream refused while it goes on", func(t *testing.T) {
		s := connectClient(url, "/c").CallClientStream(t.Context())
		if err := s.Send(&ask{Fail: "cat"}); err != nil {
			t.Fatal(err)
		}
		for s.Send(&ask{Text: strings.Repeat("x", 1000)}) == nil {
		}
		_, err := s.CloseAndReceive()
		checkConnectError(t, err)
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		s, err := connectClient(url, "/slow").CallServerStream(ctx, connect.NewRequest(&ask{}))
		if err == nil {
			for s.Receive() {
			}
			err = s.Err()
		}
		if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
			t.Errorf("got %v", err)
		}
	})
	t.Run("compressed requests are refused in words", func(t *testing.T) {
		gz := connect.WithSendGzip()
		_, err := connectClient(url, "/u", gz).CallUnary(t.Context(), connect.NewRequest(&ask{Text: strings.Repeat("x", 9999)}))
		if connect.CodeOf(err) != connect.CodeUnimplemented || !strings.Contains(err.Error(), "gzip") {
			t.Errorf("unary: %v", err)
		}
		s, err := connectClient(url, "/s", gz).CallServerStream(t.Context(), connect.NewRequest(&ask{Text: strings.Repeat("x", 9999)}))
		if err == nil {
			s.Receive()
			err = s.Err()
		}
		if connect.CodeOf(err) != connect.CodeUnimplemented || !strings.Contains(err.Error(), "gzip") {
			t.Errorf("stream: %v", err)
		}
	})
	t.Run("binary protobuf is refused", func(t *testing.T) {
		resp, err := http.Post(url+"/u", "application/proto", strings.NewReader("\x0a\x00"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusUnsupportedMediaType || resp.Header.Get("Accept-Post") != "application/json" {
			t.Errorf("got %s, Accept-Post %q", resp.Status, resp.Header.Get("Accept-Post"))
		}
	})
}

func checkConnectError(t *testing.T, err error) {
	t.Helper()
	var e *connect.Error
	if !errors.As(err, &e) || e.Code() != connect.CodeInvalidArgument || e.Message() != "no cat here" {
		t.Fatalf("got %v", err)
	}
	if len(e.Details()) != 1 || e.Details()[0].Type() != "dayfly.guest.v1.StartFailure" || string(e.Details()[0].Bytes()) != "\x08\x7f" {
		t.Errorf("details: %v", e.Details())
	}
}

func TestOurClientCallsAnyServer(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.Handler{"connect's": theirs(), "ours": http.HandlerFunc(ours)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testOurClient(t, &wire.Client{Base: serve(t, handler), Header: http.Header{"X-Test": {"1"}}})
		})
	}
}

func testOurClient(t *testing.T, c *wire.Client) {
	t.Run("unary", func(t *testing.T) {
		var got answer
		if err := c.Unary(t.Context(), "/u", ask{Text: "hej"}, &got); err != nil || got.Text != "hej" {
			t.Fatalf("got %v, %v", got, err)
		}
		err := c.Unary(t.Context(), "/u", ask{Fail: "cat"}, &got)
		if wire.CodeOf(err) != wire.InvalidArgument || !strings.Contains(err.Error(), "no cat here") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("server stream", func(t *testing.T) {
		s, err := c.ServerStream(t.Context(), "/s", ask{Text: "a b c", Fail: "cat"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var text string
		for {
			var a answer
			if err = s.Receive(&a); err != nil {
				break
			}
			text += a.Text
		}
		if text != "abc" || wire.CodeOf(err) != wire.InvalidArgument {
			t.Errorf("got %q, %v", text, err)
		}
		if again := s.Receive(&answer{}); !errors.Is(again, err) {
			t.Errorf("after the end: %v", again)
		}
	})
	t.Run("good end", func(t *testing.T) {
		s, err := c.ServerStream(t.Context(), "/s", ask{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Receive(&answer{}); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("client stream", func(t *testing.T) {
		s, err := c.ClientStream(t.Context(), "/c")
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []string{"a", "b", "c"} {
			if err := s.Send(ask{Text: w}); err != nil {
				t.Fatal(err)
			}
		}
		var got answer
		if err := s.CloseAndReceive(&got); err != nil || got.Text != "abc" {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("client stream refused while it goes on", func(t *testing.T) {
		s, err := c.ClientStream(t.Context(), "/c")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(ask{Fail: "cat"}); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			err = s.Send(ask{Text: strings.Repeat("x", 1000)})
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("Send: %v", err)
		}
		if err := s.CloseAndReceive(nil); wire.CodeOf(err) != wire.InvalidArgument {
			t.Errorf("got %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.ServerStream(ctx, "/slow", ask{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Receive(&answer{}); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := s.Receive(&answer{}); wire.CodeOf(err) != wire.Canceled {
			t.Errorf("got %v", err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		s, err := c.ServerStream(ctx, "/slow", ask{})
		for err == nil {
			err = s.Receive(&answer{})
		}
		if wire.CodeOf(err) != wire.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
	})
}

func TestErrorsOfEdgesKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		body   string
		code   wire.Code
		text   string
	}{
		{404, `{"code":404,"message":"no such workspace"}`, wire.NotFound, "no such workspace"},
		{409, `{"kind":"conflict","message":"it is stopped"}`, wire.FailedPrecondition, "it is stopped"},
		{502, `{"code":502,"message":"The sandbox was not found"}`, wire.Unavailable, "The sandbox was not found"},
		{401, `<html>`, wire.Unauthenticated, "HTTP status 401"},
		{500, `{"code":"not_found","message":"m"}`, wire.NotFound, "m"},
		{500, `{"code":"made_up","message":"m"}`, wire.Unknown, "m"},
		{200, `not the right content type`, wire.Internal, "content type"},
	} {
		url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		err := (&wire.Client{Base: url}).Unary(t.Context(), "/x", ask{}, nil)
		if wire.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%d %s: got %v", c.status, c.body, err)
		}
	}
}

func TestCutStreamIsUnavailable(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "\x00\x00\x00", "\x00\x00\x00\x00\x09{}"} {
		url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/connect+json")
			_, _ = io.WriteString(w, body)
		}))
		s, err := (&wire.Client{Base: url}).ServerStream(t.Context(), "/x", ask{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Receive(&answer{}); wire.CodeOf(err) != wire.Unavailable {
			t.Errorf("%q: got %v", body, err)
		}
		s.Close()
	}
}
