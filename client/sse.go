package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"strings"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

const eventStream = "text/event-stream"

// asEvents asks for a stream.
func asEvents(_ context.Context, r *http.Request) error {
	r.Header.Set("Accept", eventStream)
	return nil
}

// streamOf reads the events of one name as Ts. An error ends it, the last words
// of the server among them; a stream that ends in order has none.
func streamOf[T any](resp *http.Response, err error, name string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var v T
		if err != nil {
			yield(v, unreached(err))
			return
		}
		// Not drained: a stream that is left may never end.
		defer resp.Body.Close()
		if err := refusal(resp); err != nil {
			yield(v, err)
			return
		}
		for e, err := range readStream(resp.Body) {
			var v T
			switch {
			case err != nil:
			case e.name == "error":
				err = lastWords(e.data)
			case name != "" && e.name != name:
				continue
			default:
				if jsonErr := json.Unmarshal(e.data, &v); jsonErr != nil {
					err = garbled(jsonErr)
				}
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

func lastWords(data []byte) error {
	var p rest.Problem
	if err := json.Unmarshal(data, &p); err != nil || p.Kind == "" {
		return garbled(errors.New("an error without a kind"))
	}
	return &dayfly.Error{Kind: p.Kind, Msg: p.Detail, Stage: p.Stage}
}

// sent is one server-sent event.
type sent struct {
	name string
	data []byte
}

// readStream reads server-sent events, as far as servers of ours send them. It
// ends without an error where the stream does.
func readStream(r io.Reader) iter.Seq2[sent, error] {
	return func(yield func(sent, error) bool) {
		in := bufio.NewScanner(r)
		in.Buffer(nil, maxLine)
		var e sent
		for in.Scan() {
			field, value, _ := strings.Cut(in.Text(), ":")
			value = strings.TrimPrefix(value, " ")
			switch {
			case in.Text() == "":
				if e.data != nil && !yield(e, nil) {
					return
				}
				e = sent{}
			case field == "event":
				e.name = value
			case field == "data" && e.data == nil:
				e.data = []byte(value)
			case field == "data" && len(e.data)+len(value) <= maxLine:
				e.data = append(append(e.data, '\n'), value...)
			}
		}
		if err := in.Err(); err != nil {
			yield(sent{}, garbled(err))
		}
	}
}
