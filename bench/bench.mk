# SPDX-License-Identifier: Apache-2.0
# One bench a question. RUNS=n for more or fewer rounds.
#
#   make bench-boot      CPU time from power-on to power-off, against QEMU TCG
#   make bench-programs  the five programs, against native and QEMU TCG
#   make bench-share     what sharing costs a page, and how long its runs are
#   make bench-density   host memory of one more VM, saved against the oracle

RUNS ?= 5
bench-boot: all guest
	BUILD=$(BUILD) bench/bench_boot.sh -n $(RUNS)
bench-programs: all guest
	BUILD=$(BUILD) bench/bench_programs.sh -n $(RUNS)
$(BUILD)/bench/share: bench/share.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $< $(LIB) $(LIBS)
bench-share: $(BUILD)/bench/share
	$<
bench-density: all guest
	BUILD=$(BUILD) bench/bench_density.sh
.PHONY: bench-boot bench-programs bench-share bench-density
