package pgerr

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"syscall"
)

// lost are the errors of the operating system about a connection.
var lost = []error{
	syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE,
	syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ETIMEDOUT,
}

// Network reports whether err says that a computer cannot be reached, or that the connection to it was lost. It reports
// false for an address that is malformed or belongs to no machine: that error is about the value that holds the
// address. It also reports false for an error that only has the methods of a [net.Error], because each error of an HTTP
// client has them.
func Network(err error) bool {
	var name *net.DNSError
	switch {
	case errors.As(err, new(*net.AddrError)), errors.As(err, new(*net.ParseError)),
		errors.As(err, new(net.InvalidAddrError)), errors.As(err, new(net.UnknownNetworkError)):
		return false
	case errors.As(err, &name):
		return !name.IsNotFound
	}
	return errors.As(err, new(*net.OpError)) || errors.As(err, new(*tls.CertificateVerificationError)) ||
		slices.ContainsFunc(lost, func(e error) bool { return errors.Is(err, e) })
}

// TimedOut reports whether err says that an answer took too long.
func TimedOut(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}
