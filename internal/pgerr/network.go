package pgerr

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"syscall"
)

// lost are the errors of the operating system that concern a connection.
var lost = []error{
	syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE,
	syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ETIMEDOUT,
}

// Network reports whether err says that a computer cannot be reached, or that the connection to it was lost. An
// address that makes no sense, or belongs to no machine, is about the value that has it: then Network reports false, and also for
// whatever else has the methods of a [net.Error], such as each error of an HTTP client.
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

// TimedOut reports whether err says that an answer did not come in time.
func TimedOut(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}
