package api

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/dayfly/dayfly"
)

// schema is the part of a schema in openapi.yaml that a Go type can disagree with.
type schema struct {
	Type       string            `yaml:"type"`
	Ref        string            `yaml:"$ref"`
	Required   []string          `yaml:"required"`
	Properties map[string]schema `yaml:"properties"`
	Enum       []string          `yaml:"enum"`
	Minimum    *int              `yaml:"minimum"`
	Maximum    *int              `yaml:"maximum"`
	Default    any               `yaml:"default"`
}

func schemas(t *testing.T) map[string]schema {
	t.Helper()
	b, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Components struct {
			Schemas map[string]schema `yaml:"schemas"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Components.Schemas
}

// TestQueriesAreThoseOfTheSpec: the table that refuses what a route does not
// have is written by hand.
func TestQueriesAreThoseOfTheSpec(t *testing.T) {
	t.Parallel()
	type parameter struct {
		Ref  string `yaml:"$ref"`
		Name string `yaml:"name"`
		In   string `yaml:"in"`
	}
	var doc struct {
		Paths      map[string]yaml.Node `yaml:"paths"`
		Components struct {
			Parameters map[string]parameter `yaml:"parameters"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal(definition, &doc); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	for path, node := range doc.Paths {
		var item struct {
			Parameters []parameter
		}
		ops := map[string]yaml.Node{}
		if err := node.Decode(&item); err != nil {
			t.Fatal(err)
		}
		_ = node.Decode(&ops) // what is no mapping is no operation
		for method, one := range ops {
			var op struct {
				ID         string `yaml:"operationId"`
				Parameters []parameter
			}
			if one.Decode(&op) != nil || op.ID == "" {
				continue
			}
			for _, p := range append(slices.Clone(item.Parameters), op.Parameters...) {
				if p.Ref != "" {
					p = doc.Components.Parameters[p.Ref[strings.LastIndexByte(p.Ref, '/')+1:]]
				}
				if route := strings.ToUpper(method) + " " + path; p.In == "query" {
					want[route] = append(want[route], p.Name)
				}
			}
		}
	}
	for route, names := range want {
		if fmt.Sprint(slices.Sorted(slices.Values(names))) != fmt.Sprint(slices.Sorted(slices.Values(queries[route]))) {
			t.Errorf("%s has %v, in openapi.yaml %v", route, queries[route], names)
		}
	}
	if len(want) != len(queries) {
		t.Errorf("%d routes have query parameters, in openapi.yaml %d", len(queries), len(want))
	}
}

// TestSpecDescribesTheTypes: the words are Go types first, and openapi.yaml
// only points to them, so nothing but this keeps the two equal.
func TestSpecDescribesTheTypes(t *testing.T) {
	t.Parallel()
	all := schemas(t)
	for name, v := range map[string]any{
		"Spec": dayfly.Spec{}, "Workspace": dayfly.Workspace{}, "Stage": dayfly.Stage{}, "Image": dayfly.Image{},
		"ImageConfig": dayfly.ImageConfig{}, "Kernel": dayfly.Kernel{}, "Progress": dayfly.Progress{},
		"Check": dayfly.Check{}, "Error": dayfly.Error{}, "Snapshot": dayfly.Snapshot{}, "Usage": dayfly.Usage{},
		"Idle": dayfly.Idle{}, "Restart": dayfly.Restart{}, "ReadyCheck": dayfly.ReadyCheck{}, "Exit": dayfly.Exit{},
		"Update": dayfly.Update{}, "Token": dayfly.Token{}, "Metrics": dayfly.Metrics{}, "Event": dayfly.Event{},
		"Webhook": dayfly.Webhook{}, "Delivery": dayfly.Delivery{}, "Key": dayfly.Key{}, "Limits": dayfly.Limits{},
		"Amounts": dayfly.Amounts{}, "Namespace": dayfly.Namespace{}, "Quota": dayfly.Quota{}, "AuditEntry": dayfly.AuditEntry{},
		"WorkspaceList": dayfly.Page{},
	} {
		s, ok := all[name]
		if !ok {
			t.Errorf("openapi.yaml has no schema %s", name)
			continue
		}
		want := map[string]bool{} // by property: required
		rt := reflect.TypeOf(v)
		for i := range rt.NumField() {
			tag := rt.Field(i).Tag.Get("json")
			if tag == "" || tag == "-" {
				continue
			}
			prop, opts, _ := strings.Cut(tag, ",")
			want[prop] = opts == ""
			if p, ok := s.Properties[prop]; ok && p.Ref == "" && p.Type != jsonType(rt.Field(i).Type) {
				t.Errorf("%s.%s is %s in openapi.yaml and %s in Go", name, prop, p.Type, rt.Field(i).Type)
			}
		}
		for prop, required := range want {
			if _, ok := s.Properties[prop]; !ok {
				t.Errorf("openapi.yaml: %s lacks %s", name, prop)
			}
			if required != slices.Contains(s.Required, prop) {
				t.Errorf("openapi.yaml: %s.%s: required is %v, in Go %v", name, prop, !required, required)
			}
		}
		for prop := range s.Properties {
			if _, ok := want[prop]; !ok {
				t.Errorf("openapi.yaml: %s has %s, which Go has not", name, prop)
			}
		}
	}
}

func jsonType(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "array"
	case reflect.Struct:
		if t.String() == "time.Time" {
			return "string"
		}
	}
	return "object"
}

func TestSpecStatesTheBounds(t *testing.T) {
	t.Parallel()
	all := schemas(t)
	spec := all["Spec"].Properties
	for prop, want := range map[string][3]int{
		"cpus":       {1, dayfly.MaxCPUs, dayfly.DefaultCPUs},
		"memory_mib": {dayfly.MinMemoryMiB, dayfly.MaxMemoryMiB, dayfly.DefaultMemoryMiB},
		"disk_mib":   {dayfly.MinDiskMiB, dayfly.MaxDiskMiB, dayfly.DefaultDiskMiB},
	} {
		p := spec[prop]
		if got := fmt.Sprint(*p.Minimum, *p.Maximum, p.Default); got != fmt.Sprint(want[0], want[1], want[2]) {
			t.Errorf("%s: %s, in Go %v", prop, got, want)
		}
	}
	var states []string
	for _, s := range dayfly.States() {
		states = append(states, string(s))
	}
	if !slices.Equal(all["State"].Enum, states) {
		t.Errorf("states: %v, in Go %v", all["State"].Enum, states)
	}
	startKinds := []string{
		string(dayfly.Cold), string(dayfly.Restore), string(dayfly.Claim),
		string(dayfly.Resume), string(dayfly.FromSnapshot), string(dayfly.Forked),
	}
	if got := all["Workspace"].Properties["start_kind"].Enum; !slices.Equal(got, startKinds) {
		t.Errorf("start kinds: %v, in Go %v", got, startKinds)
	}
	var types []string
	for _, t := range dayfly.EventTypes() {
		types = append(types, string(t))
	}
	if !slices.Equal(all["EventType"].Enum, types) {
		t.Errorf("event types: %v, in Go %v", all["EventType"].Enum, types)
	}
	count := all["ForkWorkspace"].Properties["count"]
	if got := fmt.Sprint(*count.Minimum, *count.Maximum, count.Default); got != fmt.Sprint(1, dayfly.MaxFork, 1) {
		t.Errorf("count of a fork: %s, in Go 1 to %d", got, dayfly.MaxFork)
	}
	for _, kind := range all["Error"].Properties["kind"].Enum {
		if _, ok := kinds[dayfly.Kind(kind)]; !ok {
			t.Errorf("kind %s has no status", kind)
		}
	}
	if n := len(all["Error"].Properties["kind"].Enum); n != len(kinds) {
		t.Errorf("%d kinds, in Go %d", n, len(kinds))
	}
}
