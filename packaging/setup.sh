#!/bin/sh
# Installs what Dayfly needs from this machine's own Debian packages.
#
#   packaging/setup.sh run      to run workspaces (the default)
#   packaging/setup.sh test     and to run every test
#   packaging/setup.sh kernel   and to compile a tuned guest kernel
#
# Debian 12 or 13 on amd64, as root; it asks nothing. Run again, it only looks
# whether everything is still there, which takes a moment and needs no root.
# On other systems it says exactly what to install. It never installs a kernel
# for this machine: the guests' kernel is downloaded as a package, which
# `dayfly kernel import` unpacks.
#
# Environment: DAYFLY_CACHE, a directory for the kernel package and the record
# of what was set up (default /var/cache/dayfly).
set -eu

cache=${DAYFLY_CACHE:-/var/cache/dayfly}
kernel_series=6.12
qemu_major=10 # older ones hang where a saved machine is restored
go_minor=21   # from 1.21 on, go fetches the version that go.mod names

PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin

say() { printf 'setup: %s\n' "$*"; }
die() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

# quietly WHAT COMMAND...: its output goes to a log, the end of which is shown
# if it fails.
quietly() {
	what=$1
	shift
	say "$what"
	log=$cache/setup.log
	{ printf '\n--- %s: %s\n' "$(date -u +%FT%TZ)" "$*"; } >>"$log"
	if ! "$@" >>"$log" 2>&1 </dev/null; then
		printf 'setup: %s: this went wrong; the end of %s:\n' "$what" "$log" >&2
		tail -n 25 "$log" | sed 's/^/  /' >&2
		return 1
	fi
}

# --- What is here already ---------------------------------------------------

have() { command -v "$1" >/dev/null 2>&1; }

have_qemu() {
	have qemu-system-x86_64 || return 1
	major=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9]*\).*/\1/p')
	[ "${major:-0}" -ge "$qemu_major" ]
}

# go_version prints the release of the go command itself, not of the toolchain
# that a go.mod would have it fetch.
go_version() { (cd / && GOTOOLCHAIN=local go env GOVERSION 2>/dev/null); }

have_go() {
	have go || return 1
	minor=$(go_version | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
	[ "${minor:-0}" -ge "$go_minor" ]
}

have_ca() { [ -s /etc/ssl/certs/ca-certificates.crt ] || [ -d /etc/pki/tls/certs ]; }
have_keyring() { [ -s /usr/share/keyrings/debian-archive-keyring.gpg ]; }
have_kernel_package() { [ -n "$(newest_kernel_package)" ]; }
have_venv() { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }
have_postgres() { ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; }
have_libc() { [ -e /usr/include/stdio.h ]; }
have_libelf() { [ -e /usr/include/libelf.h ]; }
have_libssl() { [ -e /usr/include/openssl/ssl.h ]; }
have_source() { [ -e "/usr/src/linux-source-$kernel_series.tar.xz" ]; }

# lacking PURPOSE prints a line "check package" for everything that is missing.
lacking() {
	wants "$1" | while read -r check package; do
		case $check in
		have_*) "$check" || echo "$package" ;;
		*) have "$check" || echo "$package" ;;
		esac
	done | sort -u
}

# wants PURPOSE prints what it needs: a command or a check, and the package.
wants() {
	cat <<-'END'
		have_qemu qemu-system-x86
		mke2fs e2fsprogs
		mmdebstrap mmdebstrap
		have_keyring debian-archive-keyring
		have_ca ca-certificates
		git git
		make make
		have_go golang-go
	END
	case $1 in
	test) cat <<-'END' ;;
		gcc gcc
		have_libc libc6-dev
		have_venv python3-venv
		curl curl
		have_postgres postgresql
		mkfs.xfs xfsprogs
		mkfs.btrfs btrfs-progs
	END
	kernel) cat <<-END ;;
		gcc gcc
		have_libc libc6-dev
		ld binutils
		bc bc
		flex flex
		bison bison
		xz xz-utils
		have_libelf libelf-dev
		have_libssl libssl-dev
		have_source linux-source-$kernel_series
	END
	esac
}

newest_kernel_package() {
	# By version, not as text: 6.12.100 is newer than 6.12.95.
	ls "$cache" 2>/dev/null | grep "^linux-image-$kernel_series\..*-cloud-amd64_.*\.deb$" | sort -V | tail -n 1
}

# --- Debian -----------------------------------------------------------------

apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
		-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

# update_lists refreshes the package lists, once. A foreign repository that
# does not answer is no reason to stop: what is needed may still be found.
update_lists() {
	[ -z "${updated:-}" ] || return 0
	quietly "refreshing the package lists" apt update ||
		say "going on without: some repository of this machine does not work"
	updated=yes
}

# add_backports adds Debian 12's backports from the mirror that this machine
# uses already, unless some file of its owner's has done so.
add_backports() {
	suite=$codename-backports
	! apt-get indextargets --format '$(RELEASE)' | grep -qx "$suite" || return 0
	uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' | sed -n "s/^$codename //p" | head -n 1)
	[ -n "$uri" ] || die "no Debian $codename repository is set up on this machine: put one into /etc/apt/sources.list.d"
	file=/etc/apt/sources.list.d/dayfly-backports.sources
	say "adding $suite ($file)"
	{
		echo "# Written by Dayfly's packaging/setup.sh: QEMU $qemu_major is not in $codename itself."
		echo "Types: deb"
		echo "URIs: $uri"
		echo "Suites: $suite"
		echo "Components: main"
		signed=$(signed_by)
		[ -z "$signed" ] || echo "Signed-By: $signed"
	} >"$file.new"
	mv "$file.new" "$file"
	updated=
}

# signed_by prints the keyring file that this machine's own Debian sources
# name, else Debian's usual one, else nothing: then apt's trusted keys decide.
signed_by() {
	found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
		sed -n -e 's/^Signed-By:[[:space:]]*\(\/[^[:space:]]*debian[^[:space:]]*\).*/\1/p' \
			-e 's/^deb[[:space:]]*\[.*signed-by=\([^], ]*debian[^], ]*\).*/\1/p' | head -n 1)
	if [ -z "$found" ] && have_keyring; then
		found=/usr/share/keyrings/debian-archive-keyring.gpg
	fi
	echo "$found"
}

# too_old PACKAGE VERSION: the package that would be installed is older.
too_old() {
	candidate=$(LC_ALL=C apt-cache policy "$1" | sed -n 's/^  Candidate: //p')
	case $candidate in
	'' | '(none)') return 0 ;;
	esac
	dpkg --compare-versions "$candidate" lt "$2"
}

# needs_backports PACKAGE: only backports has it, or new enough. The numbers
# carry the packages' epochs.
needs_backports() {
	case $1 in
	qemu-system-x86) too_old "$1" "1:$qemu_major" ;;
	golang-go) too_old "$1" "2:1.$go_minor" ;;
	linux-source-*) too_old "$1" "$kernel_series" ;;
	*) return 1 ;;
	esac
}

# no_cluster keeps Debian's package from making and starting a database server
# of its own, on a machine that has none: tests start theirs and end them.
no_cluster() {
	dir=/etc/postgresql-common/createcluster.d
	[ ! -e /etc/postgresql-common/createcluster.conf ] || return 0 # it is there with the package
	mkdir -p "$dir"
	{
		echo "# Written by Dayfly's packaging/setup.sh: its tests want the programs, and no server"
		echo "# that runs all the time. Delete this file to get one with the next version."
		echo "create_main_cluster = false"
	} >"$dir/dayfly.conf"
}

install_packages() {
	update_lists
	case " $1 " in
	*[[:space:]]postgresql[[:space:]]*) no_cluster ;;
	esac
	plain='' newer=''
	for package in $1; do
		if needs_backports "$package"; then
			newer="$newer $package"
		else
			plain="$plain $package"
		fi
	done
	if [ -n "$newer" ]; then
		[ "$version" = 12 ] || die "this machine's package lists hold no recent$newer: bring its Debian $version up to date"
		add_backports
		update_lists
	fi
	# shellcheck disable=SC2086 # lists of names
	{
		# What came from backports before may have left the release's own
		# packages without a fitting partner, such as libelf1 without libelf-dev.
		if [ -n "$plain" ] && [ "$version" = 12 ] && ! apt -s install --no-install-recommends $plain >/dev/null 2>&1; then
			newer="$newer$plain"
			plain=''
			add_backports
			update_lists
		fi
		[ -z "$plain" ] || quietly "installing$plain" apt install --no-install-recommends $plain || exit 1
		[ -z "$newer" ] || quietly "installing$newer from $codename-backports" \
			apt install --no-install-recommends -t "$codename-backports" $newer || exit 1
	}
}

# fetch_kernel downloads the newest cloud kernel of the series, as a file. apt
# checks it against the signed package lists.
fetch_kernel() {
	update_lists
	name=$(find_kernel)
	if [ -z "$name" ] && [ "$version" = 12 ]; then
		add_backports
		update_lists
		name=$(find_kernel)
	fi
	[ -n "$name" ] || die "this machine's package lists hold no linux-image-$kernel_series.*-cloud-amd64: bring its Debian $version up to date"
	work=$cache/download
	rm -rf "$work"
	mkdir "$work"
	(cd "$work" && quietly "fetching $name for the guests" apt download "$name") || exit 1
	mv "$work"/linux-image-*.deb "$cache/"
	rmdir "$work"
}

find_kernel() {
	apt-cache search --names-only "^linux-image-$kernel_series\\..*-cloud-amd64\$" |
		cut -d ' ' -f 1 | sort -V | tail -n 1
}

# --- Other systems ----------------------------------------------------------

explain() {
	cat >&2 <<-END
		setup: this is $system. Only Debian 12 and 13 on amd64 are set up by this script.
		Install these yourself, then run the same command again:

		  QEMU $qemu_major or later (qemu-system-x86_64)   mke2fs and debugfs of e2fsprogs, 1.47 or later
		  mmdebstrap and the Debian archive keyring   Go 1.$go_minor or later
		  git, make, CA certificates$(case $purpose in
			test) printf '\n  gcc and the C library'\''s headers, Python 3 with venv, the PostgreSQL server,\n  mkfs.xfs and mkfs.btrfs' ;;
			kernel) printf '\n  gcc, binutils, bc, flex, bison, xz, the headers of libelf and OpenSSL,\n  and the kernel'\''s source as /usr/src/linux-source-%s.tar.xz' "$kernel_series" ;;
			esac)

		$(hint)

		Also put Debian's package linux-image-$kernel_series.*-cloud-amd64 (a file *.deb from
		any Debian 13 mirror) into $cache: it is the guests' kernel.
		Still missing here: $(missing_here)
	END
	exit 1
}

missing_here() {
	lacking "$purpose" | tr '\n' ' '
	have_kernel_package || printf 'the kernel package'
}

hint() {
	case " $id $like " in
	*" ubuntu "* | *" debian "*) echo "  apt-get install qemu-system-x86 e2fsprogs mmdebstrap debian-archive-keyring golang-go git make ca-certificates" ;;
	*" fedora "* | *" rhel "*) echo "  dnf install qemu-system-x86-core e2fsprogs mmdebstrap debian-keyring golang git make ca-certificates" ;;
	*" arch "*) echo "  pacman -S qemu-system-x86 e2fsprogs mmdebstrap debian-archive-keyring go git make ca-certificates" ;;
	*" suse "* | *" opensuse "*) echo "  zypper install qemu-x86 e2fsprogs mmdebstrap go git make ca-certificates" ;;
	*" alpine "*) echo "  apk add qemu-system-x86_64 e2fsprogs e2fsprogs-extra mmdebstrap debian-archive-keyring go git make ca-certificates" ;;
	*) echo "  (the packages' names are your system's own)" ;;
	esac
}

# --- The work ---------------------------------------------------------------

purpose=${1:-run}
case $purpose in
run | test | kernel) ;;
*) die "usage: packaging/setup.sh [run|test|kernel]" ;;
esac

id='' like='' version='' codename=''
if [ -r /etc/os-release ]; then
	# shellcheck disable=SC1091
	. /etc/os-release
	id=${ID:-} like=${ID_LIKE:-} version=${VERSION_ID:-} codename=${VERSION_CODENAME:-}
fi
machine=$(uname -m)
system="${PRETTY_NAME:-an unknown system} on $machine"

# The record is keyed by this script: a changed script looks anew.
stamp=$cache/setup-$purpose-$(cksum <"$0" | tr ' ' -)
missing=$(lacking "$purpose")
if [ -z "$missing" ] && have_kernel_package && [ "$machine" = x86_64 ]; then
	[ -e "$stamp" ] || say "everything needed to $purpose is here"
	touch "$stamp" 2>/dev/null || true # another user's cache: only a message is said again
	exit 0
fi

case $id-$version-$machine in
debian-12-x86_64 | debian-13-x86_64) ;;
*) explain ;;
esac
[ "$(id -u)" = 0 ] || die "must be root to install: $(echo $missing)$(have_kernel_package || echo ' the kernel package'). Run this as root, or install them and run it again"

mkdir -p "$cache"
exec 9>"$cache/setup.lock"
flock 9 # two at once would fight over apt
missing=$(lacking "$purpose")
[ -z "$missing" ] || install_packages "$missing"
have_kernel_package || fetch_kernel

missing=$(lacking "$purpose")
[ -z "$missing" ] || die "installed, and still not found: $(echo $missing). Look into $cache/setup.log"
rm -f "$cache/setup-$purpose-"*
touch "$stamp"
say "done: $(newest_kernel_package) is in $cache"
