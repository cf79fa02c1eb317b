# SPDX-License-Identifier: Apache-2.0
# The guest image inside `sardine memsweep`, and the loops that both sides run.
MS := vmm/cli/memsweep
MSB := $(BUILD)/$(MS)
MS_CFLAGS := -std=gnu11 -I. -O2 -g0 -Wall -Wextra -ffreestanding -fno-builtin \
	-fPIE -mno-red-zone -mgeneral-regs-only -fno-tree-vectorize \
	-fno-tree-loop-distribute-patterns -fno-stack-protector \
	-fcf-protection=none -fno-asynchronous-unwind-tables -fvisibility=hidden

$(MSB)/loops.o $(MSB)/guest.o: $(MSB)/%.o: $(MS)/%.c $(MS)/loops.h
	@mkdir -p $(@D)
	$(CC) $(MS_CFLAGS) -c -o $@ $<
$(MSB)/start.o: $(MS)/start.S
	@mkdir -p $(@D)
	$(CC) -c -o $@ $<
$(MSB)/guest.elf: $(MSB)/start.o $(MSB)/guest.o $(MSB)/loops.o $(MS)/guest.ld
	ld -m elf_x86_64 -static -nostdlib -z max-page-size=4096 \
		-z noexecstack --no-warn-rwx-segments -T $(MS)/guest.ld \
		-o $@.64 $(filter %.o,$^)
	objcopy -O elf32-i386 $@.64 $@
$(MSB)/image.o: $(MS)/image.S $(MSB)/guest.elf
	$(CC) -c -DMEMSWEEP_ELF='"$(MSB)/guest.elf"' -o $@ $<

$(LIB): $(MSB)/loops.o $(MSB)/image.o
