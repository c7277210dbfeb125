package localpg

import "syscall"

// leastMemory is how many bytes must be free in memory to keep a temporary server's data there.
const leastMemory = 4 << 30

// memoryFolder returns a folder whose files are in memory, and "" if there is no such folder with enough room. Postgres
// creates and removes hundreds of files for each database, which is slow on a disk.
func memoryFolder() string {
	const folder = "/dev/shm"
	const tmpfs, everybody = 0x01021994, 0o1777
	var fs syscall.Statfs_t
	var dir syscall.Stat_t
	if syscall.Statfs(folder, &fs) != nil || fs.Type != tmpfs || fs.Bavail*uint64(fs.Bsize) < leastMemory {
		return ""
	}
	if syscall.Stat(folder, &dir) != nil || dir.Mode&everybody != everybody {
		return ""
	}
	return folder
}
