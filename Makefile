# Sardine. `make run` and `make test` do everything on a fresh Debian 12.
# SPDX-License-Identifier: Apache-2.0
#
#   make            build build/sardine
#   make run        install, build, make a Debian guest (sshd, redis, nginx) on
#                   a disk, pack 8 VMs over it, print the table
#   make run-small  the same with a kernel and busybox, 128 MiB each, no disk
#   make test       install, build, pass every test
#   make lint       includes and format (make format mends the format)
#   make man        build/sardine.1
# BUILD=dir builds elsewhere; SAN=1 adds address and undefined sanitizers.

BUILD ?= build
CC := gcc
CFLAGS ?= -O2 -g
JOBS ?= $(shell nproc)
ALL_CFLAGS := -std=gnu11 -Wall -Wextra -Wno-unused-parameter -fms-extensions \
	-fno-strict-aliasing -D_GNU_SOURCE -I. -march=x86-64-v3 -mfsgsbase \
	-pthread -MMD -MP $(CFLAGS)
LIBS := -lZydis -lZycore -lxxhash -llz4 -ljemalloc -lnuma -ljansson -lpopt -lseccomp -luring -lm
ifeq ($(SAN),1)
ALL_CFLAGS += -fsanitize=address,undefined -fno-omit-frame-pointer
LIBS := $(filter-out -ljemalloc,$(LIBS))
endif

SRCS := $(filter-out vmm/cli/main.c,$(wildcard mm/*.c mm/*/*.c sched/*.c \
	vmm/*.c vmm/*/*.c))
ASRCS := $(wildcard vmm/*/*.S)
OBJS := $(SRCS:%.c=$(BUILD)/%.o) $(ASRCS:%.S=$(BUILD)/%.o)
LIB := $(BUILD)/libsardine.a

# Objects are made anew when the flags are others than last time.
FLAGS := $(BUILD)/.flags
$(shell mkdir -p $(BUILD); printf '%s\n' '$(CC) $(ALL_CFLAGS)' | \
	cmp -s - $(FLAGS) || printf '%s\n' '$(CC) $(ALL_CFLAGS)' >$(FLAGS))

all: $(BUILD)/sardine

# The whole archive: engines are chosen by link, through weak references.
$(BUILD)/sardine: $(BUILD)/vmm/cli/main.o $(LIB)
	$(CC) $(ALL_CFLAGS) -o $@ $< -Wl,--whole-archive $(LIB) \
		-Wl,--no-whole-archive $(LIBS)

$(LIB): $(OBJS)
	@rm -f $@
	@ar rcs $@ $^

$(BUILD)/%.o: %.c $(FLAGS)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/%.o: %.S $(FLAGS)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

# What runs with the guest's vector registers and FS base in place.
$(addprefix $(BUILD)/vmm/bt/,fast.o tc.o ccf.o ibtc.o reloc.o translate_cold.o \
	site.o cpuid.o cr3.o sync.o) $(BUILD)/vmm/mmu/shadow_fast.o: ALL_CFLAGS += \
	-mgeneral-regs-only -fno-stack-protector \
	-fno-tree-loop-distribute-patterns

# Unit and property tests: one program a file, linked with the library.
UNIT_SRCS := $(wildcard tests/unit/*.c tests/prop/*.c)
UNITS := $(UNIT_SRCS:%.c=$(BUILD)/%)
$(UNITS): $(BUILD)/%: %.c $(LIB) $(FLAGS)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $< $(LIB) -lcmocka $(LIBS)
units: $(UNITS)

# Parts of the build that have a file of their own.
-include vmm/cli/memsweep/memsweep.mk tests/tests.mk tests/guest/guest.mk \
	tests/guest/cases.mk bench/bench.mk

# Debian packages. DEPS: to build and to make the guest; DEPS_TEST: besides,
# for the tests; DEPS_BENCH: for make bench.
DEPS := gcc libc6-dev binutils libzydis-dev libzycore-dev libxxhash-dev liblz4-dev \
	libjemalloc-dev libnuma-dev libjansson-dev libpopt-dev libseccomp-dev \
	libmicrohttpd-dev libncurses-dev liburing-dev libslirp-dev \
	busybox-static cpio gzip xz-utils ca-certificates $(GUEST_DEPS)
DEPS_TEST := libcmocka-dev qemu-system-x86 clang-format jq procps \
	bsdutils curl e2fsprogs libxml2-utils $(GUEST_DEPS_TEST)
# What makes the guest's disk.
DEPS_DISK := mmdebstrap e2fsprogs
DEPS_BENCH := qemu-system-x86 mmdebstrap openssl
deps:
	@tests/deps.sh $(DEPS)
deps-test:
	@tests/deps.sh $(DEPS) $(DEPS_TEST)

RUN_VMS ?= 8
RUN_SECONDS ?= 45
RUN_APPEND ?= console=ttyS0
# Debian on a disk that all VMs have as their base.
run: deps
	@tests/deps.sh $(DEPS_DISK)
	@$(MAKE) --no-print-directory -j$(JOBS) all guest guest-disk
	$(BUILD)/sardine pack -n $(RUN_VMS) --mem 256M --rng \
		--kernel $(BUILD)/guest/vmlinuz \
		--initrd $(BUILD)/guest/initrd-disk.img \
		--disk $(BUILD)/guest-disk/disk.img,snapshot --net user \
		--append "$(RUN_APPEND) quiet" \
		--log-dir $(BUILD)/run-logs --for $(RUN_SECONDS) --oracle

run-small: deps
	@$(MAKE) --no-print-directory -j$(JOBS) all guest
	$(BUILD)/sardine pack -n $(RUN_VMS) --mem 128M \
		--kernel $(BUILD)/guest/vmlinuz \
		--initrd $(BUILD)/guest/initrd.img --append "$(RUN_APPEND)" \
		--log-dir $(BUILD)/run-logs --for $(RUN_SECONDS) --oracle

man: $(BUILD)/sardine
	$(BUILD)/sardine man >$(BUILD)/sardine.1

clean:
	rm -rf $(BUILD)
.PHONY: all clean units deps deps-test run run-small man

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
