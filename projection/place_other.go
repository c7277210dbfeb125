//go:build !unix

package projection

func isDead(string, string) bool { return false }

func at(name string) string { return name }
