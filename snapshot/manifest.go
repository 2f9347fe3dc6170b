package snapshot

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"regexp"
	"strconv"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/keyring"
)

// A manifest is one line of JSON of a fixed form, so that it is authenticated
// byte for byte before any of it is decoded:
//
//	{"format":"dayfly-snapshot","version":1,"salt":"…","body":{…},"mac":"…","crc":"…"}
//
// The MAC covers all before `,"mac"`, the CRC-32C all before `,"crc"`. The CRC
// guards against accidents only, and lets a damaged manifest be told from one
// that was written with another key.
const (
	manifestName = "manifest.json"
	ramName      = "ram"
	stateName    = "state"
	diskPrefix   = "disk."

	version       = 1
	versionPrefix = `{"format":"dayfly-snapshot","version":`
	saltPrefix    = versionPrefix + `1,"salt":"`
	bodyPrefix    = `","body":`
	macPrefix     = `,"mac":"`
	crcPrefix     = `","crc":"`
	manifestEnd   = "\"}\n"

	maxConfig   = 1 << 20
	maxManifest = 2 << 20 // with config, the text of Machine and maxDisks layers
	maxDisks    = 256
	maxText     = 256     // of each text in Machine
	maxRAM      = 4 << 40 // bounds the index of ram to 80 MiB
	maxDisk     = 1 << 50
	maxState    = 64 << 20 // a thousand times what machines have
	crcLen      = 8        // in hexadecimal
	macLen      = digestLen
	saltText    = 2 * saltLen
	trailerLen  = len(macPrefix) + macLen + len(crcPrefix) + crcLen + len(manifestEnd)
	leadLen     = len(saltPrefix) + saltText + len(bodyPrefix)
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	idForm     = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// body is what the MAC of a manifest protects.
type body struct {
	Manifest
	Files []stored `json:"files"` // ram, then state
}

// stored is a file that this package wrote.
type stored struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
}

// encodeManifest returns the bytes of manifest.json, and the manifest as a
// reader will see it: what cannot be read back is never written.
func encodeManifest(k *keys, b *body) ([]byte, Manifest, error) {
	if len(b.Config) > 0 && !json.Valid(b.Config) {
		return nil, Manifest{}, dayfly.Errorf(dayfly.Invalid, "a snapshot's config must be JSON")
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // the caller's config keeps its letters
	if err := enc.Encode(b); err != nil {
		return nil, Manifest{}, dayfly.Errorf(dayfly.Invalid, "snapshot manifest: %w", err)
	}
	text := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	seen, err := decodeBody(text)
	if err != nil {
		return nil, Manifest{}, dayfly.Errorf(dayfly.Invalid, "snapshot manifest: %w", err)
	}
	out := append([]byte(saltPrefix), hex.EncodeToString(k.salt[:])...)
	out = append(append(out, bodyPrefix...), text...)
	mac := k.mac(out)
	out = append(append(out, macPrefix...), hex.EncodeToString(mac)...)
	sum := crcText(out)
	out = append(append(append(out, crcPrefix...), sum...), manifestEnd...)
	if len(out) > maxManifest {
		return nil, Manifest{}, dayfly.Errorf(dayfly.Invalid, "a snapshot's manifest of %d bytes is larger than %d", len(out), maxManifest)
	}
	return out, seen.Manifest, nil
}

func crcText(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)) }

// parseManifest authenticates the bytes of a manifest and decodes its body.
func parseManifest(b []byte, key *keyring.Key) (*keys, *body, error) {
	if err := checkVersion(b); err != nil {
		return nil, nil, err
	}
	if len(b) < leadLen+trailerLen || len(b) > maxManifest || !bytes.HasPrefix(b, []byte(saltPrefix)) {
		return nil, nil, damaged("manifest", "%d bytes are not a manifest", len(b))
	}
	covered := b[:len(b)-len(manifestEnd)-crcLen-len(crcPrefix)] // by the CRC
	if end := crcPrefix + crcText(covered) + manifestEnd; !bytes.HasSuffix(b, []byte(end)) {
		return nil, nil, damaged("manifest", "checksum")
	}
	var s salt
	_, err := hex.Decode(s[:], b[len(saltPrefix):len(saltPrefix)+saltText])
	signed := covered[:len(covered)-macLen-len(macPrefix)]
	mac := covered[len(covered)-macLen:]
	if err != nil || !bytes.HasSuffix(covered[:len(covered)-macLen], []byte(macPrefix)) {
		return nil, nil, damaged("manifest", "form")
	}
	k, err := derive(key, s)
	if err != nil {
		return nil, nil, err
	}
	if !same(hex.EncodeToString(k.mac(signed)), string(mac)) {
		k.clear()
		return nil, nil, dayfly.Errorf(dayfly.Internal, "the snapshot was %w: open it with the key of the workspace it was made of; if this is the one, its manifest was faked", ErrWrongKey)
	}
	if !bytes.HasPrefix(signed[len(saltPrefix)+saltText:], []byte(bodyPrefix)) {
		k.clear()
		return nil, nil, damaged("manifest", "form")
	}
	m, err := decodeBody(signed[leadLen:])
	if err != nil {
		k.clear()
		return nil, nil, damaged("manifest", "%v", err)
	}
	return k, m, nil
}

// checkVersion refuses what a later release wrote, which may have another form
// from there on.
func checkVersion(b []byte) error {
	rest, ok := bytes.CutPrefix(b, []byte(versionPrefix))
	digits, _, found := bytes.Cut(rest[:min(len(rest), 10)], []byte(","))
	n, err := strconv.ParseUint(string(digits), 10, 31)
	if !ok || !found || err != nil || n < version {
		return damaged("manifest", "no version")
	}
	if n > version {
		return dayfly.Errorf(dayfly.Unavailable, "the snapshot was %w, in version %d of the format, and this one reads %d: use that release, or start cold", ErrNewer, n, version)
	}
	return nil
}

// decodeBody reads a body and holds every bound of the format.
func decodeBody(b []byte) (*body, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("%d bytes", len(b))
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields() // a new field is a new version
	m := new(body)
	if err := dec.Decode(m); err != nil {
		return nil, err
	}
	if dec.InputOffset() != int64(len(b)) {
		return nil, fmt.Errorf("%d bytes after its end", int64(len(b))-dec.InputOffset())
	}
	if err := m.checkMeta(); err != nil {
		return nil, err
	}
	if err := m.checkFiles(); err != nil {
		return nil, err
	}
	return m, m.checkDisks()
}

func (m *body) checkMeta() error {
	if !idForm.MatchString(m.ID) {
		return fmt.Errorf("id %.80q: it must be 1 to 64 of a-z, 0-9 and -", m.ID)
	}
	if len(m.Config) > maxConfig {
		return fmt.Errorf("config of %d bytes: it must be at most %d", len(m.Config), maxConfig)
	}
	v := m.Machine
	for _, text := range []string{v.VMM, v.VMMVersion, v.Accel, v.CPUModel, v.Kernel} {
		if len(text) > maxText {
			return fmt.Errorf("machine %.80q…: a text must be at most %d bytes", text, maxText)
		}
	}
	if v.CPUs < 0 || v.MemoryMiB < 0 {
		return fmt.Errorf("machine of %d CPUs and %d MiB", v.CPUs, v.MemoryMiB)
	}
	return nil
}

func (m *body) checkFiles() error {
	r := m.RAM
	switch {
	case r.Size <= 0 || r.Size > maxRAM || r.Size%PageSize != 0:
		return fmt.Errorf("ram of %d bytes", r.Size)
	case r.Stored < 0 || r.Stored > r.Size || r.Stored%PageSize != 0:
		return fmt.Errorf("ram with %d bytes stored", r.Stored)
	case r.Chunks < 0 || int64(r.Chunks) > (r.Size+chunkBytes-1)/chunkBytes || int64(r.Chunks) > r.Stored/PageSize:
		return fmt.Errorf("ram in %d chunks", r.Chunks)
	case m.State < 0 || m.State > maxState:
		return fmt.Errorf("state of %d bytes", m.State)
	case len(m.Files) != 2 || m.Files[0].Name != ramName || m.Files[1].Name != stateName:
		return fmt.Errorf("files are not %s and %s", ramName, stateName)
	case m.Files[0].Size < ramFileSize(r.Chunks, r.Stored, r.Chunks) || m.Files[0].Size > ramFileSize(r.Chunks, r.Stored, int(r.Stored/PageSize)):
		return fmt.Errorf("ram file of %d bytes", m.Files[0].Size)
	case m.Files[1].Size != stateFileSize(m.State):
		return fmt.Errorf("state file of %d bytes", m.Files[1].Size)
	case !digestForm.MatchString(m.Files[0].Digest) || !digestForm.MatchString(m.Files[1].Digest):
		return fmt.Errorf("digest form")
	}
	return nil
}

func (m *body) checkDisks() error {
	if len(m.Disks) > maxDisks {
		return fmt.Errorf("%d disk layers: there must be at most %d", len(m.Disks), maxDisks)
	}
	for i, d := range m.Disks {
		switch {
		case d.Name != diskName(i):
			return fmt.Errorf("disk layer %d named %.20q", i, d.Name)
		case d.Size < 0 || d.Size > maxDisk || d.Allocated < 0:
			return fmt.Errorf("%s of %d bytes, %d allocated", d.Name, d.Size, d.Allocated)
		case d.Format != Raw && d.Format != Qcow2:
			return fmt.Errorf("%s of format %.20q: it must be raw or qcow2", d.Name, d.Format)
		case !digestForm.MatchString(d.Digest):
			return fmt.Errorf("%s: digest form", d.Name)
		}
	}
	return nil
}

func diskName(i int) string { return diskPrefix + strconv.Itoa(i) }
