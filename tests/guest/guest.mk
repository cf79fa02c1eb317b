# The stock guest: Debian's cloud kernel and an initramfs of busybox-static and
# our programs. SPDX-License-Identifier: Apache-2.0
#
#   make guest          $(BUILD)/guest/{vmlinuz,initrd.img,guest}
#                       and initrd-virtio.img, the same with the virtio modules
#   make guest-vmlinux  $(BUILD)/guest/vmlinux, out of vmlinuz
# Packages are downloaded, never installed, into $(GUEST_DEB), which builds in
# other directories share; what is made from them is made anew for each BUILD.

GUEST := $(BUILD)/guest
GUEST_DEB ?= build/deb
GUEST_KERNEL := $(GUEST)/vmlinuz
GUEST_INITRD := $(GUEST)/initrd.img
GUEST_BIN := $(GUEST)/guest
GUEST_SRC := $(wildcard tests/guest/image/*.c)

guest: $(GUEST_KERNEL) $(GUEST_INITRD) $(GUEST_BIN)

# One binary for every program: the same file runs natively for the baseline,
# so its flags are fixed, whatever CFLAGS says.
GUEST_CFLAGS := -std=gnu11 -O2 -g0 -march=x86-64 -mtune=generic -static \
	-no-pie -fcf-protection=none -fno-stack-protector -D_GNU_SOURCE \
	-pthread -Wall -Wextra -Wno-unused-parameter
$(GUEST_BIN): $(GUEST_SRC) tests/guest/image/guest.h tests/guest/guest.mk
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) -s -o $@ $(GUEST_SRC)

$(GUEST_KERNEL): tests/guest/fetch.sh
	@mkdir -p $(@D)
	tests/guest/fetch.sh kernel $(GUEST_DEB) $@

$(GUEST)/busybox: tests/guest/fetch.sh
	@mkdir -p $(@D)
	tests/guest/fetch.sh busybox $(GUEST_DEB) $@

$(GUEST_INITRD): $(GUEST_BIN) $(GUEST)/busybox tests/guest/image/init \
		tests/guest/mkinitrd.sh
	tests/guest/mkinitrd.sh $@ $(GUEST)/busybox $(GUEST_BIN) \
		tests/guest/image/init

# The same guest with the kernel's virtio drivers loaded; an image of its own, so
# that the figures of the small one stay what they are.
GUEST_VIRTIO := $(GUEST)/initrd-virtio.img
$(GUEST)/modules: tests/guest/fetch.sh
	tests/guest/fetch.sh modules $(GUEST_DEB) $@
	@touch $@
$(GUEST_VIRTIO): $(GUEST_INITRD) $(GUEST)/modules tests/guest/image/init-virtio
	tests/guest/mkinitrd.sh $@ $(GUEST)/busybox $(GUEST_BIN) \
		tests/guest/image/init $(GUEST)/modules \
		tests/guest/image/init-virtio
guest: $(GUEST_VIRTIO)

# The kernel itself, for tests of the PVH entry.
$(GUEST)/unpack_kernel: tests/guest/unpack_kernel.c vmm/boot/lz4.c
	@mkdir -p $(@D)
	$(CC) -O2 -std=gnu11 -fms-extensions -D_GNU_SOURCE -I. -o $@ $^
$(GUEST)/vmlinux: $(GUEST)/unpack_kernel $(GUEST_KERNEL)
	$< $(GUEST_KERNEL) $@.tmp
	@mv $@.tmp $@
guest-vmlinux: $(GUEST)/vmlinux

guest: $(GUEST)/unpack_kernel

# The userland of the bench: Debian packages, for the chroot and as an initramfs.
#   make guest-user     $(BUILD)/guest-user/{root,initrd.img}
GUEST_USER := $(BUILD)/guest-user
$(GUEST_USER)/initrd.img: $(GUEST_BIN) $(GUEST)/busybox \
		tests/guest/image/init $(wildcard tests/guest/user/*)
	tests/guest/user/mkuser.sh $(GUEST_USER) $(GUEST_DEB) \
		$(GUEST)/busybox $(GUEST_BIN)
guest-user: $(GUEST_USER)/initrd.img

# The Debian guest on a disk: openssh, redis, nginx, sqlite3 behind a small init.
#   make guest-disk     $(BUILD)/guest-disk/{disk.img,disk-key} and
#			$(BUILD)/guest/initrd-disk.img, which starts it
# The disk is a read-only base: --disk disk.img,snapshot or ,cow=FILE.
GUEST_DISK := $(BUILD)/guest-disk
GUEST_DISK_INITRD := $(GUEST)/initrd-disk.img
$(GUEST_DISK)/disk.img: $(GUEST_BIN) tests/guest/disk/mkdisk.sh \
		$(shell find tests/guest/disk/root -type f)
	tests/guest/disk/mkdisk.sh $(GUEST_DISK) $(GUEST_DEB) $(GUEST_BIN)
$(GUEST_DISK_INITRD): $(GUEST_INITRD) $(GUEST)/modules \
		tests/guest/image/init-disk
	tests/guest/mkinitrd.sh $@ $(GUEST)/busybox $(GUEST_BIN) \
		tests/guest/image/init $(GUEST)/modules \
		tests/guest/image/init-disk
guest-disk: $(GUEST_DISK)/disk.img $(GUEST_DISK_INITRD) $(GUEST_KERNEL)
guest: $(GUEST_DISK_INITRD)

.PHONY: guest guest-vmlinux guest-user guest-disk

# A Multiboot image that checks its loader from inside.
GUEST_MB := $(GUEST)/mb.elf
$(GUEST_MB): $(wildcard tests/guest/mb/*)
	@mkdir -p $(@D)
	$(CC) -m32 -march=i686 -O1 -ffreestanding -fno-pic -no-pie -nostdlib \
		-static -fno-stack-protector -fcf-protection=none \
		-fno-asynchronous-unwind-tables -mgeneral-regs-only -Wall \
		-Wextra -Wl,-T,tests/guest/mb/mb.ld -Wl,--build-id=none \
		-o $@ tests/guest/mb/start.S tests/guest/mb/mb.c
guest: $(GUEST_MB)
