/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_CLI_OPTIONS_H
#define SARDINE_VMM_CLI_OPTIONS_H
/*
 * Options are tables. A subcommand names each of its options once: how it is
 * spelled, what argument it takes, its default and one sentence. The parser
 * (popt), --help and the man page all come from that table.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum opt_kind {
	OPT_FLAG, /* bool */
	OPT_STR,  /* char *, owned by the values (options_free) */
	OPT_SIZE, /* uint64_t; 128M, 4G, or plain bytes */
	OPT_UINT, /* uint32_t */
	OPT_LIST, /* char **, ends with NULL; NULL: none. May be given again;
		     owned by the values */
};

struct opt {
	const char *name; /* long form, without the dashes */
	char letter;	  /* short form, or 0 */
	enum opt_kind kind;
	const char *arg;  /* what the argument is called in the help */
	const char *help; /* one sentence, no full stop */
	const char *dflt; /* as the user would write it, or NULL: 0, NULL */
	size_t offset;	  /* where the value goes in the values struct */
	bool required;
	bool hidden; /* for tests and for Sardine itself: not in the help */
};
#define OPT(st, field) .offset = offsetof(st, field)

#define OPT_MAX_ARGS   4

struct command {
	const char *name;
	const char *summary; /* a line */
	const char *args;    /* positional arguments in the help, or "" */
	unsigned max_args;
	const char *details; /* paragraphs for the man page, or NULL */
	const struct opt *opts;
	size_t n_opts;
	size_t values_size;
	bool hidden;
	/* Exit status of the program. args ends with NULL. */
	int (*run)(void *values, char *const args[]);
};

enum opt_result { OPTIONS_OK, OPTIONS_HELP, OPTIONS_BAD };

/*
 * Parse argv[0..argc) (argv[0] is the subcommand's name) into values, which
 * must be zeroed and values_size long, and at most max_args positional
 * arguments into args (NULL-terminated). OPTIONS_BAD: err holds one line that
 * names the thing and the remedy. Call options_free in every case.
 */
enum opt_result options_parse(const struct command *c, int argc, char **argv,
			      void *values, char *args[OPT_MAX_ARGS + 1],
			      char *err, size_t errlen);
void options_free(const struct command *c, void *values,
		  char *args[OPT_MAX_ARGS + 1]);

/* What OPT_LIST fills: NULL, or strings and a NULL. 0 or -ENOMEM. */
int strlist_add(char ***list, const char *s);
int strlist_copy(char ***to, char *const *from);
void strlist_free(char ***list);

void options_help(const struct command *c, FILE *f);
void options_man(const struct command *const *cmds, size_t n, FILE *f);

/* "128M", "4G", "65536", with K, M, G, T as powers of 1024 (an "iB" or "B" may
 * follow). 0, -EINVAL: not a size, -ERANGE: does not fit in 64 bits. */
int size_parse(const char *s, uint64_t *out);
/* For people: "128 MiB", "1.5 GiB"; exact multiples have no decimals. */
const char *size_format(uint64_t bytes, char *buf, size_t len);
#endif
