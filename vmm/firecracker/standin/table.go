package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// phase is when a request is allowed.
type phase int

const (
	anyTime phase = iota
	preBoot
	fresh // before boot, and before anything of the machine has been configured
	postBoot
	paused
)

// kind is the type of a field.
type kind int

const (
	text kind = iota
	integer
	boolean
	object
	list // of objects
)

// field is one that a body may have.
type field struct {
	name     string
	kind     kind
	required bool
	least    float64  // of an integer
	most     float64  // of an integer; 0: no bound
	oneOf    []string // of a text; nil: any but an empty one
	fields   []field  // of an object
}

// endpoint is one request that there is. Every field that is not here is wrong,
// and so is a request that is not.
type endpoint struct {
	method, path string // a path that ends with a slash takes an id
	when         phase
	makes        bool // it configures the machine, which is not fresh any more
	body         []field
	idField      string // of the body: the same as the id of the path
	handle       func(*server, call) (any, error)
}

// call is one request.
type call struct {
	id   string
	body map[string]any
}

func (c call) text(name string) string { s, _ := c.body[name].(string); return s }
func (c call) flag(name string) bool   { b, _ := c.body[name].(bool); return b }
func (c call) number(name string) int  { n, _ := c.body[name].(float64); return int(n) }

func must(name string, k kind) field { return field{name: name, kind: k, required: true} }
func may(name string, k kind) field  { return field{name: name, kind: k} }
func choice(name string, of ...string) field {
	return field{name: name, kind: text, required: true, oneOf: of}
}

func (f field) from(least, most float64) field { f.least, f.most = least, most; return f }
func (f field) with(fields ...field) field     { f.fields = fields; return f }
func (f field) optional() field                { f.required = false; return f }

var bucket = []field{must("size", integer).from(0, 0), may("one_time_burst", integer).from(0, 0), must("refill_time", integer).from(0, 0)}

func limiterCalled(name string) field {
	return may(name, object).with(may("bandwidth", object).with(bucket...), may("ops", object).with(bucket...))
}

var limiter = limiterCalled("rate_limiter")

// endpoints is what of Firecracker's API a driver may use: version 1.16 of it,
// as its swagger file describes fields and its controllers states.
var endpoints = []endpoint{
	{method: "GET", path: "/", handle: (*server).describe},
	{method: "GET", path: "/version", handle: (*server).version},
	{method: "GET", path: "/machine-config", handle: (*server).machineConfig},
	{method: "GET", path: "/vm/config", handle: (*server).vmConfig},
	{method: "PUT", path: "/machine-config", when: preBoot, makes: true, handle: (*server).putMachineConfig, body: []field{
		must("vcpu_count", integer).from(1, 32), must("mem_size_mib", integer).from(1, 0),
		may("smt", boolean), may("track_dirty_pages", boolean),
		choice("huge_pages", "None", "2M").optional(),
	}},
	{method: "PUT", path: "/boot-source", when: preBoot, makes: true, handle: (*server).putBootSource, body: []field{
		must("kernel_image_path", text), may("initrd_path", text), may("boot_args", text),
	}},
	{method: "PUT", path: "/drives/", when: preBoot, makes: true, idField: "drive_id", handle: (*server).putDrive, body: []field{
		must("drive_id", text), must("is_root_device", boolean), must("path_on_host", text), must("is_read_only", boolean),
		choice("cache_type", "Unsafe", "Writeback").optional(), choice("io_engine", "Sync", "Async").optional(),
		may("partuuid", text), limiter,
	}},
	{method: "PATCH", path: "/drives/", when: postBoot, idField: "drive_id", handle: (*server).patchDrive, body: []field{
		must("drive_id", text), may("path_on_host", text), limiter,
	}},
	{method: "PUT", path: "/network-interfaces/", when: preBoot, makes: true, idField: "iface_id", handle: (*server).putNIC, body: []field{
		must("iface_id", text), must("host_dev_name", text), may("guest_mac", text),
		limiterCalled("rx_rate_limiter"), limiterCalled("tx_rate_limiter"),
	}},
	{method: "PATCH", path: "/network-interfaces/", when: postBoot, idField: "iface_id", handle: (*server).patchNIC, body: []field{
		must("iface_id", text), limiterCalled("rx_rate_limiter"), limiterCalled("tx_rate_limiter"),
	}},
	{method: "PUT", path: "/vsock", when: preBoot, makes: true, handle: (*server).putVsock, body: []field{
		must("guest_cid", integer).from(3, math.MaxUint32), must("uds_path", text),
	}},
	{method: "PUT", path: "/entropy", when: preBoot, makes: true, handle: (*server).nothing, body: []field{limiter}},
	{method: "PUT", path: "/balloon", when: preBoot, makes: true, handle: (*server).nothing, body: []field{
		must("amount_mib", integer).from(0, 0), must("deflate_on_oom", boolean), may("stats_polling_interval_s", integer).from(0, 0),
		may("free_page_hinting", boolean), may("free_page_reporting", boolean),
	}},
	{method: "PUT", path: "/actions", handle: (*server).act, body: []field{choice("action_type", "InstanceStart", "FlushMetrics", "SendCtrlAltDel")}},
	{method: "PATCH", path: "/vm", when: postBoot, handle: (*server).patchVM, body: []field{choice("state", "Paused", "Resumed")}},
	{method: "PUT", path: "/snapshot/create", when: paused, handle: (*server).createSnapshot, body: []field{
		must("mem_file_path", text), must("snapshot_path", text), choice("snapshot_type", "Full", "Diff").optional(),
	}},
	{method: "PUT", path: "/snapshot/load", when: fresh, handle: (*server).loadSnapshot, body: []field{
		must("snapshot_path", text), may("resume_vm", boolean), may("track_dirty_pages", boolean),
		must("mem_backend", object).with(choice("backend_type", "File", "Uffd"), must("backend_path", text)),
		may("vsock_override", object).with(must("uds_path", text)),
		may("network_overrides", list).with(must("iface_id", text), must("host_dev_name", text)),
	}},
}

// find returns the endpoint of a request, and the id in its path.
func find(method, path string) (endpoint, string, bool) {
	for _, e := range endpoints {
		if e.method != method {
			continue
		}
		if e.path == path {
			return e, "", true
		}
		if id, ok := strings.CutPrefix(path, e.path); ok && len(e.path) > 1 && strings.HasSuffix(e.path, "/") && id != "" && !strings.Contains(id, "/") {
			return e, id, true
		}
	}
	return endpoint{}, "", false
}

// check holds a body to its endpoint.
func (e endpoint) check(id string, raw []byte) (map[string]any, error) {
	if e.method == "GET" {
		if len(raw) > 0 {
			return nil, errors.New("GET request cannot have a body")
		}
		return nil, nil
	}
	var body map[string]any
	if err := json.Unmarshal(raw, &body); err != nil || body == nil {
		return nil, fmt.Errorf("an error occurred when deserializing the json body of a request: %w", err)
	}
	if err := checkFields(e.body, body); err != nil {
		return nil, err
	}
	if e.idField != "" && body[e.idField] != id {
		return nil, errors.New("the id from the path does not match the id from the body")
	}
	return body, nil
}

func checkFields(fields []field, body map[string]any) error {
	for name := range body {
		if !slices.ContainsFunc(fields, func(f field) bool { return f.name == name }) {
			return fmt.Errorf("unknown field `%s`", name)
		}
	}
	for _, f := range fields {
		v, there := body[f.name]
		if !there && f.required {
			return fmt.Errorf("missing field `%s`", f.name)
		}
		if !there {
			continue
		}
		if err := f.check(v); err != nil {
			return fmt.Errorf("field `%s`: %w", f.name, err)
		}
	}
	return nil
}

func (f field) check(v any) error {
	switch v := v.(type) {
	case string:
		if f.kind != text || v == "" || f.oneOf != nil && !slices.Contains(f.oneOf, v) {
			return fmt.Errorf("invalid value: %q", v)
		}
	case float64:
		if f.kind != integer || v != math.Trunc(v) || v < f.least || f.most > 0 && v > f.most {
			return fmt.Errorf("invalid value: %v", v)
		}
	case bool:
		if f.kind != boolean {
			return fmt.Errorf("invalid type: boolean %v", v)
		}
	case map[string]any:
		if f.kind != object {
			return errors.New("invalid type: map")
		}
		return checkFields(f.fields, v)
	case []any:
		if f.kind != list {
			return errors.New("invalid type: sequence")
		}
		for _, one := range v {
			if err := (field{kind: object, fields: f.fields}).check(one); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("invalid type: %T", v)
	}
	return nil
}
