#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The real-program set, one program by each name that this is called by; in a
# guest and natively (in a chroot of the same files) it does the same things.
# Prints lines of the form that guest.h describes; the result is a hash of what
# the program made.
name=${0##*/}
me=/bench/bin/guest
# One CPU, as the guest has: redis's client and server would use two.
[ -n "${ONE_CPU:-}" ] || ONE_CPU=1 exec $me onecpu "$0" "$@"
export PATH=/usr/bin:/bin LC_ALL=C HOME=/tmp
cd /tmp || exit 1
in=/bench/input

hash_of() # COMMAND...: the result field of its output
{
	$me timed check "$@" | sed 's/.*\(result=[0-9a-f]*\).*/\1/'
}

# speed NAME WORK OPTION...: openssl's own measure, one second of wall time,
# turned round: the seconds that WORK (bytes, or signatures) would take.
speed()
{
	speed_name=$1 speed_work=$2
	shift 2
	openssl speed -elapsed -mr -seconds 1 "$@" 2>/dev/null >speed.out
	awk -F: -v name="$speed_name" -v work="$speed_work" -v res="$result" '
		/^\+F:/ { rate = $4 }		# bytes a second
		/^\+F2:/ { rate = $4 }	# signatures a second
		END {
			if (!rate) exit 1
			printf "%s work=%d %s seconds=%.3f\n", name, work,
				res, work / rate
		}' speed.out
}

case $name in
sqlite)
	# To the end of the script, or not at all.
	$me timed sqlite sqlite3 -bail -init /bench/input.sql -batch /tmp/db '' ;;
xz)
	$me timed xz xz -6 -T1 -c $in.text ;;
zstd)
	$me timed zstd zstd -q -11 --single-thread -c $in.text ;;
gcc)
	$me timed gcc sh -c "gcc -O2 -c $in.c -o o.o && cat o.o" ;;
python)
	$me timed python python3 -I -S -B /bench/pure.py ;;
openssl)
	result=$(hash_of openssl enc -aes-256-cbc -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff \
		-iv 0123456789abcdef0123456789abcdef -in $in.text)
	{
		speed openssl-aes 300000000 -bytes 16384 -evp aes-256-cbc
		result=$(hash_of openssl dgst -sha256 -r $in.text)
		speed openssl-sha2 700000000 -bytes 16384 -evp sha256
		result=$(hash_of openssl dgst -sha256 -sign /bench/key.pem \
			$in.text)
		speed openssl-rsa 700 rsa2048
	} | awk '{
		print
		r = $3; sub(/result=/, "", r)
		s = $4; sub(/seconds=/, "", s)
		all = all (all == "" ? "" : "-") r
		sum += s
	} END {
		if (NR != 3) exit 1
		printf "openssl result=%s seconds=%.3f\n", all, sum
	}' ;;
redis)
	ifconfig lo 127.0.0.1 up 2>/dev/null
	redis-server --port 7777 --bind 127.0.0.1 --save '' --appendonly no \
		>redis.log 2>&1 &
	i=0
	until redis-cli -p 7777 ping 2>/dev/null | grep -q PONG; do
		i=$((i + 1))
		[ $i -lt 100 ] || { cat redis.log; exit 1; }
		sleep 0.1
	done
	# How many did each count?
	$me timed redis sh -c '
		redis-benchmark -p 7777 -q -n 10000 -c 20 -d 64 \
			-t set,get,incr,lpush,lrange_100 >/dev/null &&
		redis-cli -p 7777 get counter:__rand_int__ &&
		redis-cli -p 7777 dbsize'
	st=$?
	redis-cli -p 7777 shutdown nosave 2>/dev/null
	exit $st ;;
*)
	echo "real.sh: what is $name?" >&2
	exit 2 ;;
esac
