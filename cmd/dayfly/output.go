package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
)

// output is how a command prints what it got, where it is not for people.
type output struct {
	json   bool
	format format
}

// outputFlags adds --json and --format to a command that prints objects.
func outputFlags(cmd *cobra.Command) *output {
	o := &output{}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().Var(&o.format, "format", "print a line for each by a Go `TEMPLATE` over the fields of its JSON, such as '{{.id}} {{.state}}'")
	return o
}

// scripted says whether the output is for a script.
func (o *output) scripted() bool { return o.json || o.format.t != nil }

// print prints one object.
func (o *output) print(w io.Writer, v any) error {
	if o.format.t != nil {
		return o.format.line(w, v)
	}
	return printJSON(w, v)
}

// printLine prints one object of a stream on one line.
func (o *output) printLine(w io.Writer, v any) error {
	if o.format.t != nil {
		return o.format.line(w, v)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printList prints a list: one JSON array, or a line for each.
func printList[T any](a *app, o *output, list []T) error {
	if o.format.t == nil {
		if list == nil {
			list = []T{}
		}
		return printJSON(a.stdout, list)
	}
	for _, v := range list {
		if err := o.format.line(a.stdout, v); err != nil {
			return err
		}
	}
	return nil
}

// format is a flag: a template over the JSON of one object, so that scripts see
// the names that are documented for the API.
type format struct {
	t    *template.Template
	text string
}

func (f *format) String() string { return f.text }
func (f *format) Type() string   { return "TEMPLATE" }

// Set reads the template.
func (f *format) Set(text string) (err error) {
	f.text = text
	f.t, err = template.New("format").Option("missingkey=zero").Funcs(template.FuncMap{
		"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"join": func(sep string, list []any) string {
			var words []string
			for _, v := range list {
				s, _ := v.(string)
				words = append(words, s)
			}
			return strings.Join(words, sep)
		},
	}).Parse(text)
	return err
}

// line prints v. What is not there is empty.
func (f *format) line(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var fields any
	if err := dec.Decode(&fields); err != nil {
		return err
	}
	var out strings.Builder
	if err := f.t.Execute(&out, numbers(fields)); err != nil {
		return dayfly.Errorf(dayfly.Invalid, "%w: --json shows which fields there are", err)
	}
	_, err = io.WriteString(w, strings.ReplaceAll(out.String(), "<no value>", "")+"\n")
	return err
}

// numbers makes numbers of JSON's, whole ones where they are.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		n, _ := v.Float64()
		return n
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	}
	return v
}
