package client

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// maxLine bounds one line of an event stream. An image's configuration is the
// longest thing in one.
const maxLine = 8 << 20

// Report takes progress of long work, one call at a time; nil takes none.
type Report func(dayfly.Progress)

// await reads the events of long work to their end and returns the last one.
func await(resp *http.Response, err error, report Report) (rest.WorkLine, error) {
	if err != nil {
		return rest.WorkLine{}, unreached(err)
	}
	defer drain(resp)
	if err := refusal(resp); err != nil {
		return rest.WorkLine{}, err
	}
	return readEvents(resp.Body, report)
}

// readEvents reads lines until one ends the work.
func readEvents(r io.Reader, report Report) (rest.WorkLine, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e rest.WorkLine
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return rest.WorkLine{}, garbled(err)
		}
		switch {
		case e.Error != nil && e.Error.Kind == "":
			return rest.WorkLine{}, garbled(errors.New("an error without a kind"))
		case e.Error != nil:
			return rest.WorkLine{}, e.Error
		case e.Image != nil, e.Images != nil, e.Kernel != nil:
			return e, nil
		case e.Progress != nil && report != nil:
			report(*e.Progress)
		}
	}
	err := lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return rest.WorkLine{}, garbled(err)
}

var errNoResult = garbled(errors.New("the last event holds another kind of result"))

func awaitImage(report Report, resp *http.Response, err error) (dayfly.Image, error) {
	e, err := await(resp, err, report)
	if err == nil && e.Image == nil {
		err = errNoResult
	}
	if err != nil {
		return dayfly.Image{}, err
	}
	return *e.Image, nil
}

func awaitKernel(report Report, resp *http.Response, err error) (dayfly.Kernel, error) {
	e, err := await(resp, err, report)
	if err == nil && e.Kernel == nil {
		err = errNoResult
	}
	if err != nil {
		return dayfly.Kernel{}, err
	}
	return *e.Kernel, nil
}
