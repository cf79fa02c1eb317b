#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# redis.sh MIB ACTIVE% SECONDS [SEED]: redis and a client that checks every
# answer, in a guest.
export PATH=/bench/bin:/usr/bin:/bin
redis-server --port 0 --unixsocket /tmp/redis --save '' --appendonly no \
	--activerehashing no >/tmp/redis.log 2>&1 &
i=0
until [ -S /tmp/redis ]; do
	i=$((i + 1))
	[ $i -lt 600 ] || { cat /tmp/redis.log; exit 1; }
	sleep 0.1
done
kv /tmp/redis "$@"
