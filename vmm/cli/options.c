/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/options.h"

#include <errno.h>
#include <inttypes.h>
#include <popt.h>
#include <stdlib.h>
#include <string.h>

int size_parse(const char *s, uint64_t *out)
{
	static const char units[] = "KMGT";
	unsigned shift = 0;
	uint64_t n = 0;
	const char *p = s, *u;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return -ERANGE;
	}
	if (*p) {
		char c = *p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p;

		u = c == 'B' ? NULL : strchr(units, c);
		if (u) {
			shift = 10 * (unsigned)(u - units + 1);
			p++;
			if (*p == 'i' && p[1] == 'B')
				p++;
		}
		if (*p == 'B')
			p++;
		if (*p)
			return -EINVAL;
	}
	if (shift && n >> (64 - shift))
		return -ERANGE;
	*out = n << shift;
	return 0;
}

const char *size_format(uint64_t bytes, char *buf, size_t len)
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	unsigned i = 0;
	uint64_t b = bytes, rest = 0;

	while (b >= 1024 && i < 4) {
		rest |= b & 1023;
		b >>= 10;
		i++;
	}
	if (rest)
		snprintf(buf, len, "%.1f %s",
			 (double)bytes / (double)(1ull << (10 * i)), unit[i]);
	else
		snprintf(buf, len, "%" PRIu64 " %s", b, unit[i]);
	return buf;
}

/* ---- parsing ---- */

struct parse {
	const struct command *c;
	void *values;
	char *err;
	size_t errlen;
};

static void *slot(const struct parse *p, const struct opt *o)
{
	return (char *)p->values + o->offset;
}

/* As a user would type it: "--mem", or "-n" where there is no long form. */
static const char *typed(const struct opt *o, char buf[64])
{
	if (o->name)
		snprintf(buf, 64, "--%s", o->name);
	else
		snprintf(buf, 64, "-%c", o->letter);
	return buf;
}

static int bad(const struct parse *p, const struct opt *o, const char *text,
	       const char *why)
{
	char name[64];

	snprintf(p->err, p->errlen, "%s %s: %s", typed(o, name), text, why);
	return -EINVAL;
}

static int set_uint(const struct parse *p, const struct opt *o,
		    const char *text)
{
	unsigned long long v;
	char *end;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end)
		return bad(p, o, text, "not a number; give digits only");
	if (errno || v > UINT32_MAX)
		return bad(p, o, text, "too large; give at most 4294967295");
	*(uint32_t *)slot(p, o) = (uint32_t)v;
	return 0;
}

static int set_size(const struct parse *p, const struct opt *o,
		    const char *text)
{
	switch (size_parse(text, slot(p, o))) {
	case 0:
		return 0;
	case -ERANGE:
		return bad(p, o, text,
			   "does not fit in 64 bits; give a size such as 128M");
	default:
		return bad(p, o, text,
			   "not a size; give bytes, or a number with K, M, G "
			   "or T such as 128M");
	}
}

int strlist_add(char ***list, const char *s)
{
	size_t n = 0;
	char **l;

	while (*list && (*list)[n])
		n++;
	l = realloc(*list, (n + 2) * sizeof(*l));
	if (!l)
		return -ENOMEM;
	*list = l;
	l[n + 1] = NULL;
	l[n] = strdup(s);
	return l[n] ? 0 : -ENOMEM;
}

int strlist_copy(char ***to, char *const *from)
{
	int r = 0;

	*to = NULL;
	for (; from && *from && !r; from++)
		r = strlist_add(to, *from);
	if (r)
		strlist_free(to);
	return r;
}

void strlist_free(char ***list)
{
	for (char **s = *list; s && *s; s++)
		free(*s);
	free(*list);
	*list = NULL;
}

static int set(const struct parse *p, const struct opt *o, const char *text)
{
	char **str = slot(p, o);

	switch (o->kind) {
	case OPT_FLAG:
		*(bool *)slot(p, o) = true;
		return 0;
	case OPT_STR:
		free(*str);
		*str = strdup(text);
		if (*str)
			return 0;
		return bad(p, o, text, "out of memory");
	case OPT_LIST:
		return strlist_add(slot(p, o), text)
			       ? bad(p, o, text, "out of memory")
			       : 0;
	case OPT_SIZE:
		return set_size(p, o, text);
	case OPT_UINT:
		return set_uint(p, o, text);
	}
	return -EINVAL;
}

static int set_defaults(const struct parse *p)
{
	for (size_t i = 0; i < p->c->n_opts; i++) {
		const struct opt *o = &p->c->opts[i];

		if (o->dflt && set(p, o, o->dflt))
			return -EINVAL;
	}
	return 0;
}

/* popt only splits the command line here; conversions are ours, so that every
 * complaint names the option, the text and the remedy. Option i returns
 * i + 1. */
static struct poptOption *popt_table(const struct command *c, int help_val)
{
	struct poptOption *t = calloc(c->n_opts + 2, sizeof(*t));

	if (!t)
		return NULL;
	for (size_t i = 0; i < c->n_opts; i++) {
		const struct opt *o = &c->opts[i];

		t[i].longName = o->name;
		t[i].shortName = o->letter;
		t[i].argInfo =
			o->kind == OPT_FLAG ? POPT_ARG_NONE : POPT_ARG_STRING;
		t[i].val = (int)i + 1;
	}
	t[c->n_opts].longName = "help";
	t[c->n_opts].shortName = 'h';
	t[c->n_opts].argInfo = POPT_ARG_NONE;
	t[c->n_opts].val = help_val;
	return t;
}

static void popt_complain(const struct parse *p, poptContext ctx, int rc)
{
	const char *what = poptBadOption(ctx, POPT_BADOPTION_NOALIAS);
	const char *name = p->c->name;

	if (rc == POPT_ERROR_BADOPT)
		snprintf(p->err, p->errlen,
			 "%s: unknown option; `sardine %s --help` lists them",
			 what, name);
	else if (rc == POPT_ERROR_NOARG)
		snprintf(p->err, p->errlen,
			 "%s: needs an argument; see `sardine %s --help`", what,
			 name);
	else if (rc == POPT_ERROR_UNWANTEDARG)
		snprintf(p->err, p->errlen,
			 "%s: takes no argument; see `sardine %s --help`", what,
			 name);
	else
		snprintf(p->err, p->errlen, "%s: %s; see `sardine %s --help`",
			 what, poptStrerror(rc), name);
}

static int take_args(const struct parse *p, poptContext ctx,
		     char *args[OPT_MAX_ARGS + 1])
{
	const char *a;
	unsigned n = 0;

	while ((a = poptGetArg(ctx))) {
		if (n == p->c->max_args || n == OPT_MAX_ARGS) {
			snprintf(p->err, p->errlen,
				 "%s: one argument too many; see "
				 "`sardine %s --help`",
				 a, p->c->name);
			return -EINVAL;
		}
		args[n++] = strdup(a);
	}
	return 0;
}

static int check_required(const struct parse *p, const bool *seen)
{
	char name[64];

	for (size_t i = 0; i < p->c->n_opts; i++) {
		const struct opt *o = &p->c->opts[i];

		if (!o->required || seen[i])
			continue;
		typed(o, name);
		snprintf(p->err, p->errlen,
			 "%s is missing; give %s %s (see `sardine %s --help`)",
			 name, name, o->arg, p->c->name);
		return -EINVAL;
	}
	return 0;
}

static enum opt_result parse_all(const struct parse *p, poptContext ctx,
				 bool *seen, char *args[OPT_MAX_ARGS + 1])
{
	int rc;

	while ((rc = poptGetNextOpt(ctx)) > 0) {
		char *text;
		int r;

		if (rc > (int)p->c->n_opts)
			return OPTIONS_HELP;
		seen[rc - 1] = true;
		text = poptGetOptArg(ctx);
		r = set(p, &p->c->opts[rc - 1], text);
		free(text);
		if (r)
			return OPTIONS_BAD;
	}
	if (rc < -1) {
		popt_complain(p, ctx, rc);
		return OPTIONS_BAD;
	}
	if (take_args(p, ctx, args) || check_required(p, seen))
		return OPTIONS_BAD;
	return OPTIONS_OK;
}

enum opt_result options_parse(const struct command *c, int argc, char **argv,
			      void *values, char *args[OPT_MAX_ARGS + 1],
			      char *err, size_t errlen)
{
	struct parse p = {c, values, err, errlen};
	struct poptOption *table = popt_table(c, (int)c->n_opts + 1);
	bool *seen = calloc(c->n_opts + 1, sizeof(*seen));
	enum opt_result r = OPTIONS_BAD;
	poptContext ctx = NULL;

	memset(args, 0, sizeof(*args) * (OPT_MAX_ARGS + 1));
	snprintf(err, errlen, "out of memory");
	if (table && seen)
		ctx = poptGetContext(c->name, argc, (const char **)argv, table,
				     0);
	if (ctx && !set_defaults(&p))
		r = parse_all(&p, ctx, seen, args);
	if (ctx)
		poptFreeContext(ctx);
	free(table);
	free(seen);
	return r;
}

void options_free(const struct command *c, void *values,
		  char *args[OPT_MAX_ARGS + 1])
{
	for (size_t i = 0; i < c->n_opts; i++) {
		char **str = (char **)((char *)values + c->opts[i].offset);

		if (c->opts[i].kind == OPT_LIST)
			strlist_free((char ***)str);
		if (c->opts[i].kind != OPT_STR)
			continue;
		free(*str);
		*str = NULL;
	}
	for (unsigned i = 0; i < OPT_MAX_ARGS; i++) {
		free(args[i]);
		args[i] = NULL;
	}
}

/* ---- help and man page ---- */

static void opt_spelling(const struct opt *o, char *buf, size_t len)
{
	char letter[4] = "  ";

	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c", o->letter);
	snprintf(buf, len, "%s%s%s%s%s%s", letter,
		 !o->name    ? ""
		 : o->letter ? ", "
			     : "  ",
		 o->name ? "--" : "", o->name ? o->name : "", o->arg ? " " : "",
		 o->arg ? o->arg : "");
}

/* Fill text to 80 columns from column `indent` on. */
static void wrap(FILE *f, const char *text, unsigned indent)
{
	unsigned col = indent;

	while (*text) {
		size_t n = strcspn(text, " ");

		if (col != indent && col + 1 + n > 79) {
			fprintf(f, "\n%*s", (int)indent, "");
			col = indent;
		}
		if (col != indent) {
			fputc(' ', f);
			col++;
		}
		fwrite(text, 1, n, f);
		col += (unsigned)n;
		text += n;
		text += strspn(text, " ");
	}
}

void options_help(const struct command *c, FILE *f)
{
	char left[64], sentence[400];

	fprintf(f, "usage: sardine %s [options]%s%s\n%s.\n\n", c->name,
		*c->args ? " " : "", c->args, c->summary);
	for (size_t i = 0; i < c->n_opts; i++) {
		const struct opt *o = &c->opts[i];

		if (o->hidden)
			continue;
		opt_spelling(o, left, sizeof(left));
		fprintf(f, "  %-26s", left);
		if (strlen(left) > 25)
			fprintf(f, "\n%28s", "");
		snprintf(sentence, sizeof(sentence), "%s%s%s%s", o->help,
			 o->dflt ? " (default " : "", o->dflt ? o->dflt : "",
			 o->dflt       ? ")"
			 : o->required ? " (required)"
				       : "");
		wrap(f, sentence, 28);
		fputc('\n', f);
	}
	fprintf(f, "  %-26sthis text\n", "-h, --help");
}

/* roff: dashes and leading dots or quotes would be read as something else. */
static void roff(FILE *f, const char *s)
{
	bool line_start = true;

	for (; *s; s++) {
		if (line_start && (*s == '.' || *s == '\''))
			fputs("\\&", f);
		if (*s == '-')
			fputs("\\-", f);
		else if (*s == '\\')
			fputs("\\e", f);
		else
			fputc(*s, f);
		line_start = *s == '\n';
	}
}

static void man_option(const struct opt *o, FILE *f)
{
	fputs(".TP\n.B ", f);
	if (o->letter)
		fprintf(f, "\\-%c%s", o->letter, o->name ? ", " : "");
	if (o->name) {
		fputs("\\-\\-", f);
		roff(f, o->name);
	}
	if (o->arg)
		fprintf(f, " \\fI%s\\fR", o->arg);
	fputc('\n', f);
	roff(f, o->help);
	if (o->dflt) {
		fputs(" (default ", f);
		roff(f, o->dflt);
		fputc(')', f);
	}
	if (o->required)
		fputs(" (required)", f);
	fputs(".\n", f);
}

static void man_command(const struct command *c, FILE *f)
{
	fprintf(f, ".SS sardine %s [options] %s\n", c->name, c->args);
	roff(f, c->summary);
	fputs(".\n", f);
	if (c->details) {
		fputs(".PP\n", f);
		roff(f, c->details);
		fputc('\n', f);
	}
	for (size_t i = 0; i < c->n_opts; i++)
		if (!c->opts[i].hidden)
			man_option(&c->opts[i], f);
}

void options_man(const struct command *const *cmds, size_t n, FILE *f)
{
	fputs(".TH SARDINE 1\n.SH NAME\nsardine \\- pack many virtual machines "
	      "onto one host\n.SH SYNOPSIS\n",
	      f);
	for (size_t i = 0; i < n; i++)
		if (!cmds[i]->hidden)
			fprintf(f, ".B sardine %s\n[options] %s\n.br\n",
				cmds[i]->name, cmds[i]->args);
	fputs(".SH DESCRIPTION\nSardine runs unmodified x86\\-64 virtual "
	      "machines by binary translation, with no hardware support, and "
	      "shares their identical pages by content.\n.SH COMMANDS\n",
	      f);
	for (size_t i = 0; i < n; i++)
		if (!cmds[i]->hidden)
			man_command(cmds[i], f);
	fputs(".SH EXIT STATUS\n"
	      ".TP\n.B 0\nThe guest powered off, or the command did its work.\n"
	      ".TP\n.B 1\nSomething on the host is wrong: a file, memory, a "
	      "socket.\n"
	      ".TP\n.B 2\nThe command line is wrong.\n"
	      ".TP\n.B 3\nThe guest reset itself under \\-\\-no\\-reboot.\n"
	      ".TP\n.B 4\nThe engine stopped the VM; reason, rip, bytes and "
	      "registers are on standard error.\n"
	      ".PP\nWith \\-\\-debug\\-exit, a write of v to port 0xf4 ends "
	      "the run with status (v<<1)|1.\n",
	      f);
}
