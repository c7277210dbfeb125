//go:build linux || darwin || freebsd

package localpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// keptDir is a cluster that stays on disk, locked for this process.
type keptDir struct {
	data  string
	lock  *os.File
	owner *syscall.Credential // the user that the server runs as; nil for our own
}

// openDir locks the folder of a kept cluster, and creates it first if it does not exist.
func openDir(ctx context.Context, dir string, runAs *syscall.Credential) (*keptDir, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	owner, err := dirOwner(dir, runAs)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	if owner != nil { // a user who may run the cluster may also lock it
		if err := lock.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			lock.Close()
			return nil, err
		}
	}
	return &keptDir{data: filepath.Join(dir, "data"), lock: lock, owner: owner}, nil
}

// dirOwner returns the user that the server of a kept cluster runs as, and nil for our own. For root it is the folder's
// owner. A new folder is given to runAs.
func dirOwner(dir string, runAs *syscall.Credential) (*syscall.Credential, error) {
	if runAs == nil {
		return nil, nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 0 {
		return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("%s belongs to root, and Postgres refuses to run as root: give the folder to another user", dir)
	}
	return runAs, os.Chown(dir, int(runAs.Uid), int(runAs.Gid))
}

// pick returns the folder of the binaries that made this cluster, or the first folder if there is no cluster yet.
func (k *keptDir) pick(ctx context.Context, folders []string) (string, error) {
	content, err := os.ReadFile(filepath.Join(k.data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return folders[0], nil
	}
	if err != nil {
		return "", err
	}
	made := strings.TrimSpace(string(content))
	var have []string
	for _, folder := range folders {
		version, err := majorVersion(ctx, folder)
		if err != nil {
			return "", err
		}
		if version == made {
			return folder, nil
		}
		have = append(have, version)
	}
	return "", fmt.Errorf("the cluster in %s was made by Postgres %s, but only %s is here",
		k.data, made, strings.Join(have, ", "))
}

// handover bounds the wait for a server whose owner has died, while its watchdog is still stopping it.
const handover = 30 * time.Second

// lockFile opens and locks a file. The lock belongs to the operating system: it ends with the last process that
// inherited the file.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := awaitLock(ctx, file); err != nil {
		file.Close()
		return nil, err
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func awaitLock(ctx context.Context, file *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, handover)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		holder := lockHolder(file)
		if syscall.Kill(holder, 0) != syscall.ESRCH {
			return fmt.Errorf("%s is in use by process %d", filepath.Dir(file.Name()), holder)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is in use by a server whose owner, process %d, has died", filepath.Dir(file.Name()), holder)
		}
	}
}

// lockHolder returns the process that last locked the file.
func lockHolder(file *os.File) int {
	content := make([]byte, 20)
	n, _ := file.ReadAt(content, 0) // the error is always io.EOF
	pid, _ := strconv.Atoi(string(content[:n]))
	return pid
}
