/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Says on the serial port what a Multiboot 1 loader gave it, checks what can be
 * checked from inside, and ends by the debug exit: 0 good, 1 bad. Runs under
 * QEMU too.
 */
#include <stdint.h>

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
	uint32_t mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table, loader_name;
};
struct module {
	uint32_t start, end, string, reserved;
};

extern char image_start[], image_end[];
static int bad;
/* In .bss and in .data: was the image loaded as its headers say? */
static uint32_t zero[1024];
static uint32_t data[3] = {0x11111111, 0x22222222, 0x33333333};

static inline void outb(uint16_t port, uint8_t v)
{
	asm volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void put(const char *s)
{
	for (; *s; s++) {
		while (!(inb(0x3fd) & 0x20))
			;
		outb(0x3f8, *s);
	}
}

static void put_hex(const char *name, uint32_t hi, uint32_t lo)
{
	static const char digit[] = "0123456789abcdef";
	char s[17];

	for (int i = 0; i < 8; i++) {
		s[i] = digit[hi >> (28 - 4 * i) & 15];
		s[i + 8] = digit[lo >> (28 - 4 * i) & 15];
	}
	s[16] = 0;
	put(name);
	put(s);
}

static void check(int good, const char *what)
{
	if (good)
		return;
	put("BAD ");
	put(what);
	put("\n");
	bad = 1;
}

/* Control registers and descriptors as the specification (3.2) wants them. */
static void check_machine(void)
{
	uint32_t cr0, flags, mem;
	uint16_t cs, ds, ss;

	asm volatile("mov %%cr0, %0" : "=r"(cr0));
	check((cr0 & 0x80000001) == 1, "cr0: PE on, PG off");
	asm volatile("pushfl; popl %0" : "=r"(flags));
	check(!(flags & 0x20200), "flags: IF and VM off");
	asm volatile("mov %%cs, %0; mov %%ds, %1; mov %%ss, %2"
		     : "=r"(cs), "=r"(ds), "=r"(ss));
	check(cs && ds && ss && !(cs & 3), "selectors");
	/* Flat: the same byte by ds, es, fs, gs and ss. */
	asm volatile("movl %%fs:(%1), %0" : "=r"(mem) : "r"(&data[1]));
	check(mem == data[1], "fs is flat");
	asm volatile("movl %%gs:(%1), %0" : "=r"(mem) : "r"(&data[2]));
	check(mem == data[2], "gs is flat");
	for (int i = 0; i < 1024; i++)
		check(!zero[i], "bss is zero");
	check(data[0] == 0x11111111 && data[2] == 0x33333333, "data");
	/* A20 is on. */
	*(volatile uint32_t *)0x80000 = 1;
	*(volatile uint32_t *)0x180000 = 2;
	check(*(volatile uint32_t *)0x80000 == 1, "A20");
}

static void show_mmap(const struct info *i)
{
	uint32_t a = i->mmap_addr, end = a + i->mmap_length;
	uint64_t ram = 0;

	while (a < end) {
		const uint32_t *e = (const uint32_t *)a;

		put_hex("map ", e[2], e[1]);
		put_hex(" ", e[4], e[3]);
		put(e[5] == 1 ? " ram\n" : " other\n");
		if (e[5] == 1)
			ram += (uint64_t)e[4] << 32 | e[3];
		a += e[0] + 4;
	}
	check(a == end, "the map's length");
	put_hex("ram ", ram >> 32, ram);
	put("\n");
}

static void show_modules(const struct info *i)
{
	const struct module *m = (const struct module *)i->mods_addr;

	for (uint32_t k = 0; k < i->mods_count; k++, m++) {
		uint32_t sum = 0;

		check(!(m->start & 4095), "module at a page boundary");
		check(m->start >= (uint32_t)image_end ||
			      m->end <= (uint32_t)image_start,
		      "module apart from the image");
		for (uint32_t a = m->start; a < m->end; a++)
			sum = sum * 31 + *(uint8_t *)a;
		put("module ");
		put((const char *)m->string);
		put_hex(" ", m->end - m->start, sum);
		put("\n");
	}
}

void mb_main(uint32_t magic, const struct info *i)
{
	check(magic == 0x2badb002, "magic");
	check_machine();
	check((i->flags & 0x4d) == 0x4d, "flags: memory, line, modules, map");
	check(i->mem_lower >= 500 && i->mem_lower <= 640, "mem_lower");
	put("cmdline ");
	put((const char *)i->cmdline);
	put("\n");
	show_mmap(i);
	show_modules(i);
	put(bad ? "multiboot: bad\n" : "multiboot: good\n");
	outb(0xf4, bad);
}
