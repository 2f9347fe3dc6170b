// Package rest is the part of the client that is generated from
// api/openapi.yaml: one method for each operation, which makes the request and
// returns the reply undecoded. Package client gives it its public face.
package rest

//go:generate go tool -modfile=../../../tools/go.mod oapi-codegen -config oapi-codegen.yaml ../../../api/openapi.yaml
