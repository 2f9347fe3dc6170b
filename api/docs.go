package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

//go:embed openapi.yaml
var definition []byte

//go:embed docs.html
var docsPage string

// published is the definition as it is served, made when first asked for:
// programs that start a server for one command never are.
var published = sync.OnceValues(func() (spec, page []byte) {
	var doc map[string]any
	if err := yaml.Unmarshal(definition, &doc); err != nil { // part of the program, and tested
		panic(err)
	}
	spec, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return spec, render(doc)
})

// GetOpenAPI answers GET /v1/openapi.json.
func (s routes) GetOpenAPI(w http.ResponseWriter, _ *http.Request) {
	spec, _ := published()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(spec) // the caller has gone: nothing left to tell
}

// GetDocs answers GET /docs.
func (s routes) GetDocs(w http.ResponseWriter, _ *http.Request) {
	_, page := published()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(page) // the caller has gone: nothing left to tell
}

// What the page shows of the definition.
type (
	docsModel struct {
		Title, Summary string
		About          []string
		Groups         []docsGroup
		Schemas        []docsSchema
	}
	docsGroup struct {
		Name, About string
		Operations  []docsOperation
	}
	docsOperation struct {
		ID, Method, Path, Summary, About string
		Body                             string
		Parameters                       []docsField
		Replies                          []docsReply
	}
	docsReply  struct{ Status, About, Schema string }
	docsSchema struct {
		Name, About string
		Fields      []docsField
	}
	docsField struct {
		Name, In, Type, About string
		Required              bool
	}
)

// render makes the page of a definition.
func render(doc map[string]any) []byte {
	d := docs{doc}
	info := d.at(doc, "info")
	m := docsModel{Title: text(info, "title") + " " + text(info, "version"), Summary: text(info, "summary")}
	m.About = strings.Split(strings.TrimSpace(text(info, "description")), "\n\n")
	for _, t := range list(doc, "tags") {
		g := docsGroup{Name: text(t, "name"), About: text(t, "description")}
		g.Operations = d.operations(g.Name)
		m.Groups = append(m.Groups, g)
	}
	schemas := d.at(d.at(doc, "components"), "schemas")
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		m.Schemas = append(m.Schemas, d.schema(name, d.at(schemas, name)))
	}
	var b bytes.Buffer
	if err := template.Must(template.New("docs").Parse(docsPage)).Execute(&b, m); err != nil {
		panic(err) // part of the program, and tested
	}
	return b.Bytes()
}

// docs reads a definition.
type docs struct{ doc map[string]any }

// at returns an object within an object, with a reference followed.
func (d docs) at(v any, key string) map[string]any {
	m, _ := v.(map[string]any)
	return d.follow(m[key])
}

func (d docs) follow(v any) map[string]any {
	m, _ := v.(map[string]any)
	ref, _ := m["$ref"].(string)
	if ref == "" {
		return m
	}
	var at any = d.doc
	for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		in, _ := at.(map[string]any)
		at = in[part]
	}
	m, _ = at.(map[string]any)
	return m
}

func text(m map[string]any, key string) string {
	s, _ := m[key].(string)
	return s
}

func list(m map[string]any, key string) []map[string]any {
	var out []map[string]any
	items, _ := m[key].([]any)
	for _, v := range items {
		if one, ok := v.(map[string]any); ok {
			out = append(out, one)
		}
	}
	return out
}

var docsMethods = []string{"get", "post", "put", "patch", "delete"}

func (d docs) operations(tag string) []docsOperation {
	var out []docsOperation
	paths := d.at(d.doc, "paths")
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := d.at(paths, path)
		for _, method := range docsMethods {
			op := d.at(item, method)
			if tags, _ := op["tags"].([]any); len(tags) == 0 || tags[0] != tag {
				continue
			}
			o := docsOperation{
				ID: text(op, "operationId"), Method: strings.ToUpper(method), Path: path,
				Summary: text(op, "summary"), About: text(op, "description"), Body: d.content(d.at(op, "requestBody")),
			}
			for _, p := range append(list(item, "parameters"), list(op, "parameters")...) {
				o.Parameters = append(o.Parameters, d.parameter(p))
			}
			o.Replies = d.replies(d.at(op, "responses"))
			out = append(out, o)
		}
	}
	return out
}

func (d docs) parameter(p map[string]any) docsField {
	p = d.follow(p)
	required, _ := p["required"].(bool)
	schema, _ := p["schema"].(map[string]any)
	return docsField{Name: text(p, "name"), In: text(p, "in"), Type: d.typeOf(schema), About: text(p, "description"), Required: required}
}

func (d docs) replies(responses map[string]any) []docsReply {
	var out []docsReply
	for status := range responses {
		reply := d.at(responses, status)
		out = append(out, docsReply{status, text(reply, "description"), d.content(reply)})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Status < out[j].Status })
	return out
}

// content names the types of a body.
func (d docs) content(body map[string]any) string {
	types := d.at(body, "content")
	var out []string
	for _, mt := range slices.Sorted(maps.Keys(types)) {
		schema, _ := d.at(types, mt)["schema"].(map[string]any)
		out = append(out, mt+": "+d.typeOf(schema))
	}
	return strings.Join(out, "; ")
}

// typeOf names a schema's type.
func (d docs) typeOf(schema map[string]any) string {
	if ref := text(schema, "$ref"); ref != "" {
		return ref[strings.LastIndexByte(ref, '/')+1:]
	}
	items, _ := schema["items"].(map[string]any)
	values, _ := schema["additionalProperties"].(map[string]any)
	enum, _ := schema["enum"].([]any)
	kind := text(schema, "type")
	switch {
	case items != nil:
		return "list of " + d.typeOf(items)
	case values != nil:
		return "map to " + d.typeOf(values)
	case len(enum) > 0:
		b, _ := json.Marshal(enum) // scalars of the definition
		return kind + " " + string(b)
	case text(schema, "format") != "":
		return kind + " (" + text(schema, "format") + ")"
	}
	return kind
}

func (d docs) schema(name string, schema map[string]any) docsSchema {
	out := docsSchema{Name: name, About: text(schema, "description")}
	if enum, ok := schema["enum"]; ok {
		out.Fields = append(out.Fields, docsField{Name: "one of", Type: d.typeOf(map[string]any{"type": schema["type"], "enum": enum})})
	}
	required, _ := schema["required"].([]any)
	props, _ := schema["properties"].(map[string]any)
	for _, prop := range slices.Sorted(maps.Keys(props)) {
		p, _ := props[prop].(map[string]any)
		out.Fields = append(out.Fields, docsField{Name: prop, Type: d.typeOf(p), About: text(p, "description"), Required: slices.Contains(required, any(prop))})
	}
	return out
}
