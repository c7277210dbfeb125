//go:build linux || darwin || freebsd

package localpg

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/xi2/xz"
)

// jarURL returns the address of Postgres's binaries for this system, as the project
// zonkyio/embedded-postgres-binaries publishes them.
func jarURL(repository, release string) string {
	name := "embedded-postgres-binaries-" + platform(runtime.GOOS, runtime.GOARCH, isAlpine())
	return fmt.Sprintf("%s/io/zonky/test/postgres/%s/%s/%s-%s.jar",
		strings.TrimSuffix(repository, "/"), name, release, name, release)
}

// platform returns the name that this project gives a system.
func platform(system, arch string, alpine bool) string {
	if arch == "arm64" {
		arch = "arm64v8"
	}
	if alpine {
		arch += "-alpine"
	}
	return system + "-" + arch
}

func isAlpine() bool {
	_, err := os.Stat("/etc/alpine-release")
	return err == nil
}

// fetchFile returns a file whose content agrees with the checksum beside it.
func fetchFile(ctx context.Context, url string) ([]byte, error) {
	content, err := get(ctx, url)
	if err != nil {
		return nil, err
	}
	checksum, err := get(ctx, url+".sha256")
	if err != nil {
		return nil, err
	}
	want, _, _ := strings.Cut(strings.TrimSpace(string(checksum)), " ")
	sum := sha256.Sum256(content)
	if got := hex.EncodeToString(sum[:]); got != want {
		return nil, fmt.Errorf("%s arrived damaged: its checksum is %s, want %s", url, got, want)
	}
	return content, nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		DisableKeepAlives:     true, // no connection outlives the download
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err // the error names the address
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: after %d bytes: %w", url, len(content), err)
	}
	return content, nil
}

// unpackJar unpacks the archive inside a jar into a new folder that every user may read.
func unpackJar(jar []byte, folder string) error {
	files, err := zip.NewReader(bytes.NewReader(jar), int64(len(jar)))
	if err != nil {
		return err
	}
	for _, file := range files.File {
		if !strings.HasSuffix(file.Name, ".txz") {
			continue
		}
		content, err := file.Open()
		if err != nil {
			return err
		}
		defer content.Close()
		return unpackTar(content, folder)
	}
	return errors.New("the jar holds no archive of binaries")
}

func unpackTar(compressed io.Reader, folder string) error {
	plain, err := xz.NewReader(compressed, 0)
	if err != nil {
		return err
	}
	if err := makeFolder(folder); err != nil {
		return err
	}
	for entries := tar.NewReader(plain); ; {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(header.Name) {
			return fmt.Errorf("the archive names %q, which is outside its folder", header.Name)
		}
		if err := unpackEntry(entries, header, filepath.Join(folder, header.Name)); err != nil {
			return err
		}
	}
}

func unpackEntry(content io.Reader, header *tar.Header, path string) error {
	if header.Typeflag == tar.TypeDir {
		return makeFolder(path)
	}
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeSymlink:
		return os.Symlink(header.Linkname, path)
	case tar.TypeReg:
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		// The archive says which files are executable. All files are made readable, whatever the umask.
		return errors.Join(err, file.Chmod(header.FileInfo().Mode().Perm()|0o444), file.Close())
	}
	return nil // nothing else is in these archives
}

// makeFolder creates a folder that every user may enter, and the folders above it.
func makeFolder(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}
