# SPDX-License-Identifier: Apache-2.0
# One bench a question. RUNS=n for more or fewer rounds, QRUNS=n for those in
# which QEMU, which is slow, takes part.
#
#   make bench           every program and the boot, against native and QEMU TCG
#			 (figures as JSON in $(BUILD)/bench); PROGRAMS=a,b,c
#   make bench-compare   this tree against the revision REV
#   make bench-boot      CPU time from power-on to power-off, against QEMU TCG
#   make bench-programs  the five programs, against native and QEMU TCG
#   make bench-share     what sharing costs a page, and how long its runs are
#   make bench-disk      disk I/O, against QEMU TCG with the same image
#   make bench-read      private memory of guests that read the same disk
#   make bench-net       the network, against QEMU TCG with the same libslirp
#   make bench-boot-stats  translation statistics of a whole boot
#   make bench-lockstep  a boot and the five programs, each unit compared with the
#			 interpreter (ten minutes and more)
#   make bench-tc        what a bound of the translation cache costs
#   make bench-overcommit  redis in guests under a budget against without one
#			 (-h of its script for sizes: OVERCOMMIT="-n 4 -b 512")
#   make bench-quota	 a budget that moves, and the idle tax against its formula
#   make bench-density   host memory of one more VM, saved against the oracle
#   make bench-many      200 idle guests: memory and CPU of each, with a plot

RUNS ?= 5
QRUNS ?= 1
PROGRAMS ?= all
bench:
	@tests/deps.sh $(DEPS) $(DEPS_BENCH)
	$(MAKE) --no-print-directory -j$(JOBS) all guest
	$(MAKE) --no-print-directory guest-user
	@mkdir -p $(BUILD)/bench
	@st=0; \
	BUILD=$(BUILD) bench/bench_programs.sh -n $(RUNS) -q $(QRUNS) \
		-p $(PROGRAMS) -j $(BUILD)/bench/programs.json || st=1; \
	BUILD=$(BUILD) bench/bench_boot.sh -n $(RUNS) \
		-j $(BUILD)/bench/boot.json || st=1; \
	exit $$st
bench-compare: all guest guest-user
	BUILD=$(BUILD) bench/compare.sh -n $(RUNS) -p $(PROGRAMS) $(REV)
bench-boot: all guest
	BUILD=$(BUILD) bench/bench_boot.sh -n $(RUNS)
bench-programs: all guest
	BUILD=$(BUILD) bench/bench_programs.sh -n $(RUNS) -p five
$(BUILD)/bench/share: bench/share.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $< $(LIB) $(LIBS)
bench-share: $(BUILD)/bench/share
	$<
bench-disk: all guest
	BUILD=$(BUILD) bench/bench_disk.sh -n $(RUNS)
bench-read: all guest
	BUILD=$(BUILD) bench/bench_read.sh
.PHONY: bench-read
bench-net: all guest
	BUILD=$(BUILD) bench/bench_net.sh -n $(RUNS)
.PHONY: bench-net
bench-boot-stats: all guest
	BUILD=$(BUILD) bench/bench_boot_stats.sh
bench-tc: all guest
	BUILD=$(BUILD) bench/bench_tc.sh
bench-lockstep: all guest
	BUILD=$(BUILD) bench/bench_lockstep.sh
.PHONY: bench-boot-stats bench-tc bench-lockstep
bench-overcommit: all guest guest-user
	BUILD=$(BUILD) bench/bench_overcommit.sh $(OVERCOMMIT)
.PHONY: bench-overcommit
# The plot in the README, too.
bench-many: all guest
	BUILD=$(BUILD) bench/bench_many.sh -o bench/plots/many.svg
.PHONY: bench-many
bench-quota: all guest
	BUILD=$(BUILD) bench/bench_quota.sh
.PHONY: bench-overcommit bench-quota
bench-density: all guest
	BUILD=$(BUILD) bench/bench_density.sh
.PHONY: bench bench-compare bench-boot bench-programs bench-share bench-density bench-disk

# The picture in the README, from a run on this machine.
plot-density: all guest
	BUILD=$(BUILD) bench/plot_density.sh
.PHONY: plot-density
