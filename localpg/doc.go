// Package localpg provides a Postgres for examples, tests and benchmarks, so that `go run` and `go test` work on a
// fresh machine.
//
// [Start] takes the first of these sources that is there:
//
//  1. the server named by an environment variable, DATABASE_URL by default;
//  2. Postgres installed on this machine, looked for in PG_BIN, PATH,
//     /usr/lib/postgresql and Homebrew's folders: a private cluster in a
//     temporary folder, reached over a unix socket;
//  3. Docker, through the docker command: a container of TIDEMARK_POSTGRES_IMAGE, postgres:17-alpine by default, on the
//     daemon that DOCKER_HOST or the current context names. In a container that uses the daemon of its host, set
//     TIDEMARK_DOCKER_HOST to the address at which the ports of containers are found;
//  4. Postgres's binaries, downloaded once into the user's cache folder, for root into /var/cache/tidemark. They come
//     from Maven Central, or from the mirror that TIDEMARK_POSTGRES_REPOSITORY names. TIDEMARK_POSTGRES_VERSION is the
//     major version, 14 to 18; 17 by default.
//
// TIDEMARK_POSTGRES=url, local, container or download forces one of them.
//
// # Guarantees
//
//   - Nothing is left running and no private folder is left on disk, however the process that called Start ends: Stop,
//     Ctrl-C, a panic, os.Exit, SIGKILL. A small shell process, the watchdog, waits on a pipe that only the caller
//     holds open. When the pipe closes, it stops the server and cleans up. On Windows there is no watchdog, so Start
//     returns only a server that is named by its URL.
//   - Ctrl-C reaches the caller and never the server. So a program can still use its database while it shuts down.
//   - Any number of servers, in any number of processes, run side by side. Each has a folder or a container of its own,
//     and no fixed port.
//   - Downloaded binaries are used only if their checksum is right and they run. Of several processes one downloads. An
//     interrupted download is never used. No download lasts longer than five minutes.
//   - A kept cluster ([Config.Dir]) is used by one process at a time. Another process gets an error. A crash never
//     prevents the next start.
//   - Only the user who started a local server can connect to it: its socket is in a folder closed to everybody else. A
//     server started by root runs as postgres or nobody, because Postgres refuses to run as root.
package localpg
