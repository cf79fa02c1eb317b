/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_LAZY_H
#define SARDINE_VMM_CLI_LAZY_H
/*
 * Libraries that few runs need are loaded when they are needed. The program is
 * also every VM's monitor, and a library that it is linked with costs each of
 * them memory: libmicrohttpd 400 KiB, with the TLS library that it brings, and
 * ncurses 44 KiB (private dirty memory of a process that does nothing).
 *
 * A library's functions are a table of pointers with the types of its header:
 *
 *   static struct { typeof(foo) *foo; typeof(bar) *bar; } lib;
 *   static const struct lazy_symbol symbols[] = {
 *	{"foo", offsetof(..., foo)}, ... };
 */
#include <stddef.h>

struct lazy_symbol {
	const char *name;
	size_t offset; /* of the pointer in the table */
};
/* Load soname (once; it stays) and fill the table. -ENOENT with one line in
 * err that names the Debian package which has it. */
int lazy_load(const char *soname, const char *package,
	      const struct lazy_symbol *symbols, size_t n, void *table,
	      char *err, size_t errlen);
#endif
