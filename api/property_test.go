package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"github.com/dayfly/dayfly/api"
)

// contract is the published definition, as far as a test asks it.
type contract struct {
	doc      map[string]any
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
}

func published(t *testing.T) *contract {
	t.Helper()
	w := httptest.NewRecorder()
	api.New(api.Options{}).ServeHTTP(w, httptest.NewRequest("GET", "/v1/openapi.json", nil))
	doc, err := jsonschema.UnmarshalJSON(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	c := &contract{doc: doc.(map[string]any), compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	c.compiler.DefaultDraft(jsonschema.Draft2020) // what OpenAPI 3.1 schemas are
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource("openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	return c
}

// check holds a body to a schema at a place of the definition.
func (c *contract) check(at string, body []byte) error {
	s := c.schemas[at]
	if s == nil {
		var err error
		if s, err = c.compiler.Compile("openapi.json#" + at); err != nil {
			return err
		}
		c.schemas[at] = s
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// get follows names, and references, from an object of the definition.
func (c *contract) get(from map[string]any, names ...string) map[string]any {
	at := c.follow(from)
	for _, name := range names {
		next, _ := at[name].(map[string]any)
		at = c.follow(next)
	}
	return at
}

func (c *contract) follow(m map[string]any) map[string]any {
	ref, _ := m["$ref"].(string)
	if ref == "" {
		return m
	}
	return c.get(c.doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
}

// operation is one of the definition.
type operation struct {
	path, method string
	parameters   []map[string]any
	body         map[string]any // of its request, by content type
	replies      map[string]any
}

func (c *contract) operations() []operation {
	var all []operation
	for path, v := range c.get(c.doc, "paths") {
		item := v.(map[string]any)
		for _, method := range []string{"get", "put", "post", "patch", "delete"} {
			op, ok := item[method].(map[string]any)
			if !ok || op["operationId"] == "guest" { // whose replies are the guest's
				continue
			}
			o := operation{path: path, method: strings.ToUpper(method), body: c.get(op, "requestBody", "content"), replies: c.get(op, "responses")}
			for _, list := range []any{item["parameters"], op["parameters"]} {
				params, _ := list.([]any)
				for _, p := range params {
					o.parameters = append(o.parameters, c.follow(p.(map[string]any)))
				}
			}
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b operation) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	return all
}

// value draws a value that a schema allows, mostly.
func (c *contract) value(t *rapid.T, schema map[string]any) any {
	schema = c.follow(schema)
	if enum, ok := schema["enum"].([]any); ok {
		return rapid.SampledFrom(enum).Draw(t, "enum")
	}
	whole := func(key string, def int) int {
		if n, ok := schema[key].(json.Number); ok {
			i, _ := n.Int64()
			return int(i)
		}
		return def
	}
	switch schema["type"] {
	case "integer", "number":
		low := whole("minimum", -5)
		return rapid.IntRange(low, max(low, whole("maximum", 1<<20))).Draw(t, "n")
	case "boolean":
		return rapid.Bool().Draw(t, "b")
	case "array":
		items, _ := schema["items"].(map[string]any)
		list := []any{}
		for range rapid.IntRange(0, 2).Draw(t, "len") {
			list = append(list, c.value(t, items))
		}
		return list
	case "object":
		return c.object(t, schema)
	}
	switch schema["format"] {
	case "date-time":
		return "2036-01-02T03:04:05Z"
	case "byte":
		return "AAEC"
	}
	texts := []string{"base", "default", "wabcdefghijklmnopqrst", "a=b", "TERM", "https://example.org/x", "x", "/tmp/x", "", "ünï", strings.Repeat("y", 300)}
	return rapid.SampledFrom(texts).Draw(t, "text")
}

func (c *contract) object(t *rapid.T, schema map[string]any) map[string]any {
	v := map[string]any{}
	props, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	names := make([]string, 0, len(props))
	for name := range props {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if slices.Contains(required, any(name)) || rapid.IntRange(0, 2).Draw(t, "has "+name) == 0 {
			v[name] = c.value(t, props[name].(map[string]any))
		}
	}
	if more, ok := schema["additionalProperties"].(map[string]any); ok && len(props) == 0 {
		v["K"] = c.value(t, more)
	}
	return v
}

var nonsense = []string{"", "null", "[]", "{", `{"nothing":1}`, `{"image":3}`, `"x"`, "\x00", `{} {}`, strings.Repeat("[", 20_000), `{"timeout_s":1e99}`}

// request draws a request for an operation, right or wrong.
func (c *contract) request(t *rapid.T, o operation) *http.Request {
	path, query, header := o.path, url.Values{}, http.Header{}
	for _, p := range o.parameters {
		name := p["name"].(string)
		required, _ := p["required"].(bool)
		if !required && rapid.IntRange(0, 2).Draw(t, "has "+name) != 0 {
			continue
		}
		v := c.value(t, p["schema"].(map[string]any))
		if rapid.IntRange(0, 9).Draw(t, "wrong "+name) == 0 {
			v = rapid.SampledFrom([]any{"%zz", "-1", "999999999999999999999", "\x00", "", "true"}).Draw(t, "nonsense")
		}
		list, isList := v.([]any)
		if !isList {
			list = []any{v}
		}
		for _, one := range list {
			text := fmt.Sprint(one)
			switch p["in"] {
			case "path":
				if text == "" || text == "." || text == ".." {
					text = "x"
				}
				path = strings.ReplaceAll(path, "{"+name+"}", url.PathEscape(text))
			case "query":
				query.Add(name, text)
			case "header":
				header.Add(name, text)
			}
		}
	}
	body := ""
	if schema := c.get(o.body, "application/json", "schema"); schema != nil {
		b, err := json.Marshal(c.value(t, schema))
		if err != nil {
			t.Fatal(err)
		}
		body = string(b)
		header.Set("Content-Type", "application/json")
	}
	if rapid.IntRange(0, 5).Draw(t, "body") == 0 {
		body = rapid.SampledFrom(nonsense).Draw(t, "nonsense")
	}
	r := httptest.NewRequest(o.method, "http://localhost"+path+"?"+query.Encode(), strings.NewReader(body))
	r.Header = header
	for name, values := range map[string][]string{
		"Authorization":    {"", "Bearer dfk_k_s", "Bearer dft_x", "Bearer x", "Basic eDo="},
		"Accept":           {"", "text/event-stream", "application/json", "nonsense"},
		"Dayfly-Namespace": {"", "", "", "n", "other", "../"}, "Last-Event-Id": {"", "3", "x"}, "Content-Type": {header.Get("Content-Type"), header.Get("Content-Type"), "text/plain"},
		"Upgrade": {"", "", "websocket"},
	} {
		if v := rapid.SampledFrom(values).Draw(t, name); v != "" {
			r.Header.Set(name, v)
		}
	}
	return r
}

// judge says what is wrong with a reply.
func (c *contract) judge(o operation, w *httptest.ResponseRecorder) error {
	body, kind := w.Body.Bytes(), strings.Split(w.Header().Get("Content-Type"), ";")[0]
	switch {
	case bytes.Contains(body, []byte(secret)):
		return fmt.Errorf("it tells a secret")
	case w.Header().Get("X-Request-Id") == "":
		return fmt.Errorf("it has no request id")
	}
	status := fmt.Sprint(w.Code)
	if _, documented := o.replies[status]; documented {
		types := c.get(o.replies, status, "content")
		if len(types) == 0 {
			if len(body) > 0 && w.Code == http.StatusNoContent {
				return fmt.Errorf("it has a body")
			}
			return nil
		}
		if _, ok := types[kind]; !ok && o.path != "/v1/workspaces/{id}/files" { // where it is the file's own
			return fmt.Errorf("content type %q is none of it", kind)
		}
		escape := func(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1") }
		at := "/paths/" + escape(o.path) + "/" + strings.ToLower(o.method) + "/responses/" + status
		if reply, _ := o.replies[status].(map[string]any); reply["$ref"] != nil {
			at = strings.TrimPrefix(reply["$ref"].(string), "#")
		}
		at += "/content/" + escape(kind) + "/schema"
		switch kind {
		case "application/json":
			if o.path == "/v1/workspaces/{id}/files" && (w.Code == http.StatusPartialContent || !bytes.HasPrefix(body, []byte("{"))) {
				return nil // a file that is called so, or a part of one
			}
			return c.check(url.PathEscape(at), body)
		case "application/x-ndjson":
			for line := range bytes.Lines(body) {
				if err := c.check("/components/schemas/WorkLine", line); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var p api.Problem
	if err := json.Unmarshal(body, &p); err != nil || kind != "application/problem+json" {
		return fmt.Errorf("status %s is not documented and %s is no problem: %.200s", status, kind, body)
	}
	if p.Status != w.Code || p.Instance != w.Header().Get("X-Request-Id") {
		return fmt.Errorf("the problem is of another reply: %+v", p)
	}
	if (w.Code == http.StatusTooManyRequests) && w.Header().Get("Retry-After") == "" {
		return fmt.Errorf("429 does not say when")
	}
	return c.check("/components/schemas/Problem", body)
}

// TestOnlyWhatIsDocumentedComesBack: whatever is asked, and whatever lies behind
// answers.
func TestOnlyWhatIsDocumentedComesBack(t *testing.T) {
	t.Parallel()
	c := published(t)
	for _, o := range c.operations() {
		t.Run(o.method+" "+o.path, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				seed := rapid.Int64().Draw(rt, "seed")
				r, w := c.request(rt, o), httptest.NewRecorder()
				synctest.Test(t, func(*testing.T) { // so that streams take no time
					s := api.New(newChaos(seed).options())
					defer s.Close()
					serve(s, w, r)
				})
				if err := c.judge(o, w); err != nil {
					rt.Errorf("%s %s: %d %v\n%.300s", r.Method, r.URL, w.Code, err, w.Body)
				}
			})
		})
	}
}

// serve answers a request, which may cut its own reply.
func serve(s http.Handler, w http.ResponseWriter, r *http.Request) {
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint,err113 // the very value
			panic(v)
		}
	}()
	s.ServeHTTP(w, r)
}
