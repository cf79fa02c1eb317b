# SPDX-License-Identifier: Apache-2.0
# The inputs of the real programs: awk -v what=text|sql|c -f gen.awk
# The same bytes each time: the generator is ours, with a fixed seed. No exp()
# or power: busybox's awk does without.

# 0 <= result < n; Park & Miller's generator fits a double.
function rnd(n)
{
	seed = seed * 16807 % 2147483647
	return int(seed / 2147483647 * n)
}

function word(	i, n, w)
{
	n = 1 + rnd(4)
	for (i = 0; i < n; i++)
		w = w substr("bcdfghklmnprstvz", 1 + rnd(16), 1) \
			substr("aeiou", 1 + rnd(5), 1) \
			(rnd(3) ? "" : substr("lnrst", 1 + rnd(5), 1))
	return w
}

function words(n,	i)
{
	for (i = 0; i < n; i++)
		W[i] = word()
}

# A few words are frequent, most are rare; some like to follow others.
function draw(n,	top, k)
{
	if (rnd(10) < 4) {
		last = (last * 31 + 7) % n
	} else {
		top = 1
		for (k = rnd(14); k; k--)
			top *= 2
		last = rnd(top) % n
	}
	return W[last]
}

function text(size,	total, line, w)
{
	words(6000)
	while (total < size) {
		line = ""
		while (length(line) < 72) {
			w = draw(6000)
			line = line (line == "" ? "" : " ") \
				(rnd(12) ? w : w ",")
			if (!rnd(40))
				line = line " " rnd(10000)
		}
		print line
		total += length(line) + 1
	}
}

function sql(	i, k, s)
{
	words(2000)
	print "PRAGMA journal_mode=MEMORY; PRAGMA cache_size=-65536;"
	print "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, town TEXT, born INTEGER);"
	print "CREATE TABLE sale(id INTEGER PRIMARY KEY, person INTEGER, day INTEGER, cents INTEGER, note TEXT);"
	print "BEGIN;"
	for (i = 1; i <= 5000; i++)
		printf "INSERT INTO person VALUES(%d,'%s %s','%s',%d);\n", i,
			W[rnd(2000)], W[rnd(2000)], W[rnd(50)], 1930 + rnd(80)
	for (i = 0; i < 4000; i++) {
		s = ""
		for (k = 1; k <= 20; k++)
			s = s (k == 1 ? "" : ",") sprintf("(%d,%d,%d,%d,'%s %s %s')",
				i * 20 + k, 1 + rnd(5000), rnd(3650), rnd(100000),
				draw(2000), draw(2000), draw(2000))
		print "INSERT INTO sale VALUES" s ";"
	}
	print "COMMIT;"
	print "CREATE INDEX sale_person ON sale(person, day);"
	print "CREATE INDEX sale_note ON sale(note);"
	print "SELECT town, count(*), sum(cents) FROM sale JOIN person ON person.id = sale.person GROUP BY town ORDER BY 3 DESC, 1;"
	print "SELECT day / 30, sum(cents), max(note) FROM sale GROUP BY 1 ORDER BY 1;"
	print "SELECT count(*), sum(length(note)) FROM sale WHERE note LIKE '%ba%' OR note LIKE '%zu%';"
	print "SELECT person, total FROM (SELECT person, sum(cents) AS total, rank() OVER (ORDER BY sum(cents) DESC) AS r FROM sale GROUP BY person) WHERE r <= 20 ORDER BY r, person;"
	print "WITH RECURSIVE n(x, y) AS (SELECT 1, 1 UNION ALL SELECT x + 1, (y * 16807) % 2147483647 FROM n WHERE x < 150000) SELECT sum(y % 1000), max(y) FROM n;"
	print "UPDATE sale SET cents = cents + 7 WHERE day % 3 = 1;"
	print "DELETE FROM sale WHERE id % 17 = 5;"
	for (i = 0; i < 1500; i++)
		printf "SELECT sum(cents), count(*) FROM sale WHERE person BETWEEN %d AND %d;\n",
			k = rnd(4990), k + 9
	print "SELECT p.town, q.town, count(*) FROM person p JOIN person q ON p.name = q.name AND p.id < q.id GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 20;"
	print "PRAGMA integrity_check;"
}

# An arithmetic expression over the names v0..v5.
function expr(d,	o)
{
	if (!d || !rnd(5))
		return rnd(4) ? "v" rnd(6) : 1 + rnd(1000)
	o = rnd(9)
	if (o == 8)
		return "(" expr(d - 1) " > " expr(d - 1) " ? " expr(d - 1) \
			" : " expr(d - 1) ")"
	return "(" expr(d - 1) " " substr("+-*^|&+-", 1 + o, 1) " " \
		expr(d - 1) ")"
}

function c(n,	i, k)
{
	print "#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
	print "struct node {\n\tstruct node *left, *right;\n\tuint64_t key;\n\tuint32_t v[6];\n\tchar name[24];\n};\n"
	for (i = 0; i < n; i++) {
		printf "uint64_t f%d(struct node *p, uint64_t v0, uint64_t v1, uint32_t v2)\n{\n", i
		print "\tuint64_t v3 = v0 ^ v1, v4 = v2, v5 = p ? p->key : 0;\n"
		printf "\tfor (unsigned i = 0; i < (v2 & %d); i++) {\n", 15 + rnd(100)
		for (k = 0; k < 4; k++)
			printf "\t\tv%d = %s;\n", rnd(6), expr(3)
		printf "\t\tif (p && p->v[i %% 6] > %d)\n\t\t\tp = p->%s;\n", rnd(1000),
			rnd(2) ? "left" : "right"
		print "\t}"
		print "\tswitch (v3 & 7) {"
		for (k = 0; k < 6; k++)
			printf "\tcase %d:\n\t\tv%d += %s;\n\t\tbreak;\n", k, rnd(6), expr(2)
		print "\tdefault:\n\t\tv4 = v5 * 3;\n\t}"
		printf "\tif (p && memcmp(p->name, \"%s\", 4) == 0)\n\t\tv1 += strlen(p->name);\n",
			substr(word() "xxxx", 1, 5)
		if (i)
			printf "\tif (v1 > %s)\n\t\treturn f%d(p, v3, v4, v5) + %s;\n",
				expr(2), rnd(i), expr(1)
		print "\treturn v0 + v1 + v2 + v3 + v4 + v5;\n}\n"
	}
	print "int main(void)\n{\n\tuint64_t s = 0;\n"
	for (i = 0; i < n; i++)
		printf "\ts += f%d(NULL, s, %d, %d);\n", i, i, rnd(50)
	print "\tprintf(\"%lu\\n\", s);\n\treturn 0;\n}"
}

BEGIN {
	seed = 20090317
	if (what == "text")
		text(3000000)
	else if (what == "sql")
		sql()
	else
		c(110)
}
