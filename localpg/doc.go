// Package localpg hands out a Postgres to examples, tests and benchmarks, so
// that `go run` and `go test` work on a fresh machine.
//
// [Start] takes the first of these that is there:
//
//  1. the server named by an environment variable, DATABASE_URL by default;
//  2. Postgres installed on this machine, looked for in PG_BIN, PATH,
//     /usr/lib/postgresql and Homebrew's folders: a private cluster in a
//     temporary folder, reached over a unix socket;
//  3. Docker, through the docker command: a container of
//     TIDEMARK_POSTGRES_IMAGE, postgres:17-alpine by default, on the daemon
//     that DOCKER_HOST or the current context names. In a container that uses
//     the daemon of its host, TIDEMARK_DOCKER_HOST says at which address the
//     ports of containers are found;
//  4. Postgres's binaries, downloaded once from Maven Central, or from the mirror of
//     it that TIDEMARK_POSTGRES_REPOSITORY names, into the user's cache folder, for
//     root into /var/cache/tidemark. TIDEMARK_POSTGRES_VERSION is the major version,
//     14 to 18; 17 by default.
//
// TIDEMARK_POSTGRES=url, local, container or download forces one of them.
//
// # Guarantees
//
//   - Nothing is left running and no private folder is left on disk, however
//     the process that called Start ends: Stop, Ctrl-C, a panic, os.Exit,
//     SIGKILL. A small shell process watches over each server; it blocks on a
//     pipe that only the caller holds open, and cleans up when that pipe
//     closes. On Windows there is no watchdog, so only a server named by its
//     URL is handed out.
//   - Ctrl-C reaches the caller and never the server, so a program can still
//     use its database while it shuts down.
//   - Any number of servers, in any number of processes, run side by side:
//     each has a folder or a container of its own, and no fixed port.
//   - Downloaded binaries are taken if their checksum is right and they run. Of
//     several processes one downloads, a download that was broken off leaves
//     nothing that is taken for a whole one, and no download lasts longer than
//     five minutes.
//   - A kept cluster ([Config.Dir]) is used by one process at a time; another
//     gets an error, and a crash never stops the next start.
//   - Only the user who started it can connect to a local server: its socket
//     is in a folder closed to everybody else. Started by root, the server
//     runs as postgres or nobody, since Postgres refuses to run as root.
package localpg
