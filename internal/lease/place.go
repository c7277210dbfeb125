//go:build unix

package lease

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// place names the scope in which a process has a number of its own: a machine since its start, and a namespace of
// processes. It is "" where the scope cannot be known. Then no process is known to have ended.
func place() string {
	boot, bootErr := os.ReadFile("/proc/sys/kernel/random/boot_id")
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if bootErr != nil || err != nil {
		return ""
	}
	sum := sha256.Sum256([]byte(string(boot) + namespace))
	return hex.EncodeToString(sum[:4])
}

// isDead reports whether it is proven that the process of an owner has ended: the owner is of the same place as a
// living one, and no process of that place has its number now.
func isDead(owner, living string) bool {
	name, where, found := strings.Cut(owner, "@")
	if _, here, _ := strings.Cut(living, "@"); !found || where != here {
		return false
	}
	parts := strings.Split(name, ":") // host:pid:number
	if len(parts) < 3 {
		return false
	}
	pid, err := strconv.Atoi(parts[len(parts)-2])
	return err == nil && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// at appends the place to the name of an owner.
func at(name string) string {
	if place := place(); place != "" {
		return fmt.Sprintf("%s@%s", name, place)
	}
	return name
}
