#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# The guest cases under every configuration (tests/guest/run-cases.sh).
exec "$(dirname "$0")/../guest/run-cases.sh"
