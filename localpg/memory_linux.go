package localpg

import "syscall"

// leastMemory is how many bytes must be free in memory for a throw-away server's data to be kept there.
const leastMemory = 4 << 30

// memoryFolder returns a folder whose files are in memory, and "" if there is none with enough room. Postgres makes and
// removes hundreds of files for each database, which file systems on disks take their time for.
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
