package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
)

// TestNobodyListensInTheClear: an address that other machines can reach needs
// TLS, or an explicit word.
func TestNobodyListensInTheClear(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0", "http://192.0.2.1:80", "example.org:80"} {
		e, err := serveConfig{}.listenAt(t.Context(), address)
		if dayfly.KindOf(err) != dayfly.Denied {
			t.Errorf("%s: %v", address, err)
		}
		if err == nil {
			_ = e.Close()
		}
	}
	e, err := serveConfig{Insecure: true}.listenAt(t.Context(), "0.0.0.0:0")
	if err != nil || e.secure || e.loopback || e.local {
		t.Fatalf("insecure: %+v, %v", e, err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := (serveConfig{}).listenAt(t.Context(), "https://127.0.0.1:0"); dayfly.KindOf(err) != dayfly.Invalid {
		t.Errorf("https without a certificate: %v", err)
	}
}

func TestAllAddressesOrNone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	c := serveConfig{Listen: []string{"unix://" + path, "0.0.0.0:0"}}
	if all, err := c.listenAll(t.Context()); err == nil || all != nil {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left")
	}
}

// TestRenewedCertificateIsUsed without a restart; half-written files are not.
func TestRenewedCertificateIsUsed(t *testing.T) {
	t.Parallel()
	files := tlsFiles{Cert: filepath.Join(t.TempDir(), "cert"), Key: filepath.Join(t.TempDir(), "key")}
	writeCertificate(t, files, 1)
	e, err := serveConfig{TLS: files}.listenAt(t.Context(), "0.0.0.0:0")
	if err != nil || !e.secure {
		t.Fatalf("%+v, %v", e, err)
	}
	defer e.Close()
	go func() {
		for {
			c, err := e.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).HandshakeContext(t.Context())
			_ = c.Close()
		}
	}()
	if n := serialAt(t, e.Addr()); n != 1 {
		t.Errorf("certificate %d", n)
	}
	c, err := newCertificate(files)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.Cert, []byte("half of"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.asked = time.Time{}
	if got, err := c.get(nil); err != nil || serial(t, got.Certificate[0]) != 1 {
		t.Errorf("%v", err)
	}
	writeCertificate(t, files, 2)
	c.asked = time.Time{}
	if got, err := c.get(nil); err != nil || serial(t, got.Certificate[0]) != 2 {
		t.Errorf("%v", err)
	}
}

func writeCertificate(t *testing.T, files tlsFiles, n int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(n), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	cert, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{files.Cert: {Type: "CERTIFICATE", Bytes: cert}, files.Key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func serialAt(t *testing.T, a net.Addr) int64 {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // it is the certificate that is looked at
	_, port, _ := net.SplitHostPort(a.String())
	c, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func serial(t *testing.T, der []byte) int64 {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c.SerialNumber.Int64()
}
