# Sardine. `make run` and `make test` do everything on a fresh Debian 12.
# SPDX-License-Identifier: Apache-2.0
#
#   make            build build/sardine
#   make run        install, build, fetch the guest, pack 8 VMs, print the table
#   make test       install, build, pass every test
#   make lint       includes and format
# BUILD=dir builds elsewhere; SAN=1 adds address and undefined sanitizers.

BUILD ?= build
CC := gcc
CFLAGS ?= -O2 -g
ALL_CFLAGS := -std=gnu11 -Wall -Wextra -Wno-unused-parameter -fms-extensions \
	-fno-strict-aliasing -D_GNU_SOURCE -I. -march=x86-64-v3 -mfsgsbase \
	-pthread -MMD -MP $(CFLAGS)
LIBS := -lZydis -lZycore -lxxhash -ljemalloc -lnuma -ljansson -lpopt -lseccomp -lm
ifeq ($(SAN),1)
ALL_CFLAGS += -fsanitize=address,undefined -fno-omit-frame-pointer
LIBS := $(filter-out -ljemalloc,$(LIBS))
endif

SRCS := $(filter-out vmm/cli/main.c,$(wildcard mm/*.c mm/*/*.c sched/*.c \
	vmm/*.c vmm/*/*.c))
ASRCS := $(wildcard vmm/*/*.S)
OBJS := $(SRCS:%.c=$(BUILD)/%.o) $(ASRCS:%.S=$(BUILD)/%.o)
LIB := $(BUILD)/libsardine.a

all: $(BUILD)/sardine

$(BUILD)/sardine: $(BUILD)/vmm/cli/main.o $(LIB)
	$(CC) $(ALL_CFLAGS) -o $@ $< -Wl,--whole-archive $(LIB) \
		-Wl,--no-whole-archive $(LIBS)

$(LIB): $(OBJS)
	@rm -f $@
	@ar rcs $@ $^

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/%.o: %.S
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

# Unit and property tests: one program a file, linked with the library.
UNIT_SRCS := $(wildcard tests/unit/*.c tests/prop/*.c)
UNITS := $(UNIT_SRCS:%.c=$(BUILD)/%)
$(UNITS): $(BUILD)/%: %.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $< $(LIB) -lcmocka $(LIBS)
units: $(UNITS)

# Parts of the build that have a file of their own.
-include tests/tests.mk tests/guest/guest.mk bench/bench.mk
-include tests/guest/cases.mk

clean:
	rm -rf $(BUILD)
.PHONY: all clean units

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
