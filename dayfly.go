// Package dayfly is the vocabulary of Dayfly: workspaces, their specs, states
// and timelines, images, kernels, host checks, and the errors that may cross a
// process boundary.
//
// It does no I/O and imports nothing of ours. One noun has one type, and the
// wire form of a noun is that type with its JSON tags; the golden files under
// testdata pin it.
package dayfly

// Version is the release this source tree builds. The linker may override it.
var Version = "0.1.0-dev"
