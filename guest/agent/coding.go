package agent

import (
	"compress/gzip"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// chooseCoding picks the coding of a download: "gzip" or "". A list of several
// codings is what HTTP libraries send by themselves, and compressing costs more
// than the link; so gzip is used where it is all the client names, where it is
// preferred, or where plain bytes are ruled out. A range is always of the plain
// bytes.
func chooseCoding(h http.Header) (string, error) {
	values := h.Values("Accept-Encoding")
	if len(values) == 0 {
		return "", nil
	}
	gz, plain, others := readCodings(strings.Join(values, ","))
	ranged := h.Get("Range") != ""
	switch {
	case plain <= 0 && (gz <= 0 || ranged):
		return "", refusal(http.StatusNotAcceptable, "no acceptable encoding found: gzip and identity are offered, and for ranges identity")
	case ranged || gz <= 0:
		return "", nil
	case plain <= 0 || gz > plain || !others && gz >= plain:
		return "gzip", nil
	}
	return "", nil
}

// readCodings returns the weights of gzip and of plain bytes, and whether any
// other coding is named (RFC 9110, 12.5.3). Plain bytes are acceptable unless
// ruled out.
func readCodings(list string) (gz, plain float64, others bool) {
	gz, plain = -1, -1
	anyOther := -1.0
	for _, item := range strings.Split(list, ",") {
		name, params, _ := strings.Cut(item, ";")
		q := weight(params)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "":
		case "gzip", "x-gzip":
			gz = q
		case "identity":
			plain = q
		case "*":
			anyOther = q
		default:
			others = true
		}
	}
	if gz < 0 {
		gz = anyOther
		others = others || anyOther > 0
	}
	if plain < 0 {
		plain = 1
		if anyOther == 0 {
			plain = 0
		}
	}
	return gz, plain, others
}

func weight(params string) float64 {
	name, value, ok := strings.Cut(strings.TrimSpace(params), "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(name), "q") {
		return 1
	}
	q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil || !(q >= 0 && q <= 1) {
		return 1
	}
	return q
}

// decodeBody undoes an upload's content coding.
func decodeBody(r *http.Request) (io.Reader, error) {
	switch coding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); coding {
	case "", "identity":
		return r.Body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, refusal(http.StatusBadRequest, "upload: not gzip, though Content-Encoding says so: "+err.Error())
		}
		return z, nil
	default:
		return nil, refusal(http.StatusBadRequest, "upload: content encoding "+strconv.Quote(coding)+" is not supported: use gzip or identity")
	}
}
