package pgerr_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

func TestNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("connection refused"), false},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, true},
		{&net.OpError{Op: "read", Err: net.ErrClosed}, true},
		{&url.Error{Op: "Post", URL: "http://mail", Err: &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}}, true},
		{fmt.Errorf("write: %w", syscall.EPIPE), true},
		{&url.Error{Op: "Get", URL: "https://mail", Err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}, true},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "server misbehaving", IsTemporary: true}}, true},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}, false},
		{&net.OpError{Op: "dial", Err: &net.AddrError{Err: "missing port in address"}}, false},
		{&net.OpError{Op: "dial", Err: net.UnknownNetworkError("carrier pigeon")}, false},
		{&net.ParseError{Type: "IP address", Text: "1.2.3"}, false},
		{&url.Error{Op: "parse", URL: "http://[", Err: errors.New("missing ']' in host")}, false},
		{&url.Error{Op: "Get", URL: "mailto:ada", Err: errors.New("unsupported protocol scheme")}, false},
		{fmt.Errorf("file: %w", syscall.ENOENT), false},
		{context.DeadlineExceeded, false},
		{io.EOF, false},
	} {
		if got := pgerr.Network(c.err); got != c.want {
			t.Errorf("%v: %t, want %t", c.err, got, c.want)
		}
	}
}

// TestNetworkOfClients checks errors that the standard library really returns.
func TestNetworkOfClients(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for address, want := range map[string]bool{
		closed.URL: true, "http://[": false, "http://a b/": false, "mailto:ada": false, "http://localhost:99999999/": false, "": false,
	} {
		answer, err := http.Get(address)
		if err == nil {
			answer.Body.Close()
		}
		if got := pgerr.Network(err); err == nil || got != want {
			t.Errorf("%q: %v: %t, want %t", address, err, got, want)
		}
	}
}
