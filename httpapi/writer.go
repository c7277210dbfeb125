package httpapi

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// response knows whether an answer has begun. Code reaches the other abilities of the writer below through
// [http.ResponseController], or by a type assertion to Flusher, Hijacker or ReaderFrom.
type response struct {
	to    http.ResponseWriter
	begun atomic.Bool
}

func (w *response) Header() http.Header { return w.to.Header() }

func (w *response) Write(p []byte) (int, error) {
	w.begun.Store(true)
	return w.to.Write(p)
}

func (w *response) WriteHeader(status int) {
	w.to.WriteHeader(status) // panics if there is no such status
	// Other statuses of 1xx, such as 103 Early Hints, come before the answer.
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols {
		w.begun.Store(true)
	}
}

// ReadFrom keeps the fast way in which the writer below copies files.
func (w *response) ReadFrom(from io.Reader) (int64, error) {
	n, err := io.Copy(w.to, from)
	if n > 0 || err == nil {
		w.begun.Store(true)
	}
	return n, err
}

func (w *response) Unwrap() http.ResponseWriter { return w.to }

func (w *response) Flush() { _ = w.FlushError() }

func (w *response) FlushError() error {
	err := http.NewResponseController(w.to).Flush()
	if err == nil {
		w.begun.Store(true)
	}
	return err
}

func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(w.to).Hijack()
	if err == nil {
		w.begun.Store(true)
	}
	return conn, buffer, err
}
