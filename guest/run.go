package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/dayfly/dayfly/guest/wire"
)

// maxRunOutput bounds what Run reads of a command's events.
const maxRunOutput = 1 << 20

// Run starts a command as a client would, waits for its end, and returns its exit
// code. What it prints is lost. A command that cannot be started is a *Refusal.
func (s *Session) Run(ctx context.Context, argv []string) (exitCode int, err error) {
	body, err := wire.AppendMessage(nil, &wire.StartRequest{Process: &wire.ProcessConfig{Cmd: argv[0], Args: argv[1:]}})
	if err != nil {
		return 0, fmt.Errorf("guest: run: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://guest"+wire.ProcessStart, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("guest: run: %w", err)
	}
	req.Header.Set("Content-Type", "application/connect+json")
	req.Header.Set("Connect-Protocol-Version", "1")
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("guest: run: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply))
		return 0, &Refusal{resp.StatusCode, string(clip(said))}
	}
	return readExit(io.LimitReader(resp.Body, maxRunOutput))
}

// readExit reads the events of a process to its end.
func readExit(r io.Reader) (exitCode int, err error) {
	for {
		flags, payload, err := wire.ReadEnvelope(r, nil, maxReply)
		if err != nil {
			return 0, fmt.Errorf("guest: run: %w", err)
		}
		var ev wire.EventResponse
		if flags != 0 { // the end of the stream, before that of the process
			return 0, &Refusal{http.StatusOK, string(clip(payload))}
		}
		if err := json.Unmarshal(payload, &ev); err != nil {
			return 0, fmt.Errorf("guest: run: %w", err)
		}
		if end := ev.Event.End; end != nil {
			return int(end.ExitCode), nil
		}
	}
}
