# SPDX-License-Identifier: Apache-2.0
# The guest cases: bare-metal programs, one ELF32 Multiboot image each.
#   make guest-cases       build them all
#   make test-guest-cases  and run them under every configuration
GC := tests/guest
GCB := $(BUILD)/guest-cases
GC_CFLAGS := -std=gnu11 -I. -O2 -g0 -Wall -Wextra -Wno-unused-parameter \
	-Wno-format-zero-length -ffreestanding -fno-builtin -fno-pic -no-pie -mno-red-zone \
	-mgeneral-regs-only -mcmodel=small -fno-stack-protector \
	-fcf-protection=none -fno-asynchronous-unwind-tables \
	-fno-strict-aliasing -fwrapv -fno-toplevel-reorder -MMD -MP
GC_NAMES := $(shell sed -e 's/\#.*//' -e '/^[[:space:]]*$$/d' \
	$(GC)/cases.list | cut -d' ' -f1)
GC_RT := $(GCB)/rt/start.o $(GCB)/rt/trap.o $(GCB)/rt/rt.o $(GCB)/rt/machine.o
GC_IMAGES := $(GC_NAMES:%=$(GCB)/%.elf)

guest-cases: $(GC_IMAGES)
	@cp $(GC)/cases.list $(GCB)/cases.list

$(GCB)/%.o: $(GC)/%.c
	@mkdir -p $(@D)
	$(CC) $(GC_CFLAGS) -c -o $@ $<

$(GCB)/%.o: $(GC)/%.S
	@mkdir -p $(@D)
	$(CC) -I. -MMD -MP -c -o $@ $<

# A case is cases/NAME.c, and cases/NAME_asm.S if it exists.
PC := %
.SECONDEXPANSION:
$(GC_IMAGES): $(GCB)/%.elf: $(GCB)/cases/%.o $(GC_RT) $(GC)/rt/link.ld \
		$$(addprefix $(GCB)/cases/,$$(notdir $$(patsubst \
		$$(PC).S,$$(PC).o,$$(wildcard $(GC)/cases/$$*_asm.S))))
	ld -m elf_x86_64 -static -nostdlib -z max-page-size=4096 \
		-z noexecstack --no-warn-rwx-segments \
		-T $(GC)/rt/link.ld -o $@.64 $(filter %.o,$^)
	objcopy -O elf32-i386 $@.64 $@

test-guest-cases: guest-cases
	BUILD=$(BUILD) $(GC)/run-cases.sh

.SECONDARY:
.PHONY: guest-cases test-guest-cases
-include $(wildcard $(GCB)/*/*.d)
