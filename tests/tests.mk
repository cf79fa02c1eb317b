# SPDX-License-Identifier: Apache-2.0
# What `make test` runs. Test programs print TAP; see tests/run-tests.sh.
#
# Picked up by themselves: tests/unit/*.c and tests/prop/*.c (cmocka), and the
# scripts tests/*/test_*.sh. TEST_ONLY=word runs the programs with that word in
# their path.

TEST_SCRIPTS := $(sort $(wildcard tests/*/test_*.sh))

# Under address and undefined-behaviour sanitizers: everything that does not
# live by SIGSEGV, fixed addresses or its own system-call filter.
SAN_BUILD := $(BUILD)/san
SAN_EXCLUDE := test_bt% test_seccomp% bt_% prop_bt%
SAN_UNITS := $(foreach s,$(UNIT_SRCS),$(if $(filter $(SAN_EXCLUDE),\
	$(basename $(notdir $(s)))),,$(s:%.c=$(SAN_BUILD)/%)))
san:
	$(MAKE) --no-print-directory SAN=1 BUILD=$(SAN_BUILD) \
		CFLAGS="-O1 -g" $(SAN_UNITS)

test: deps-test
	@rm -f $(BUILD)/test-logs/summary
	@tests/deps.sh $(DEPS_DISK) openssh-client
	$(MAKE) --no-print-directory -j$(JOBS) all units guest guest-cases \
		guest-disk run-guest
	$(MAKE) --no-print-directory -j$(JOBS) san
	BUILD=$(BUILD) tests/run-tests.sh tests/lint/test_lint.sh $(UNITS) \
		$(SAN_UNITS) $(filter-out tests/lint/%,$(TEST_SCRIPTS))

lint:
	tests/lint/lint.sh
format:
	tests/lint/format.sh --fix

.PHONY: test lint format san

# The guest of the tests in tests/run.
$(BUILD)/run-guest.elf: tests/run/guest.S
	@mkdir -p $(@D)
	$(CC) -m32 -c -o $(@:.elf=.o) $<
	ld -m elf_i386 -N -nostdlib -static -Ttext=0x100000 -z noexecstack \
		--no-warn-rwx-segments -o $@ $(@:.elf=.o)
run-guest: $(BUILD)/run-guest.elf
.PHONY: run-guest
