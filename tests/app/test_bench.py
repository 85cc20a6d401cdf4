"""`bench`: its rows, their fields and formats. Nothing here says how fast anything is."""
import csv
import io
import json
import unittest

from program import ProgramTest, jupiter

LLAMA_BENCH_FIELDS = ("model_filename", "model_type", "model_size", "model_n_params", "n_batch", "n_threads", "type_k",
                      "type_v", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts",
                      "stddev_ts", "samples_ns", "samples_ts")
OUR_FIELDS = ("version", "model_hash", "kernels", "ranks", "bytes_per_token", "read_gb_per_s", "multiply_gmac_per_s",
              "peak_read_gb_per_s", "peak_multiply_gmac_per_s", "peak_fraction", "per_rank")


class Bench(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        grid = ["-p", "8,16", "-n", "4", "-d", "0,5", "-t", "1,2", "-r", "3", "-o", "json"]
        results = {ranks: jupiter("bench", "-m", cls.tiny, *grid, ranks=ranks) for ranks in (1, 3)}
        for result in results.values():
            assert result.returncode == 0, result.stderr
        cls.rows = {ranks: json.loads(result.stdout) for ranks, result in results.items()}

    def bench(self, *arguments, ranks=1, env=None):
        """Standard output of a bench that must succeed."""
        result = jupiter("bench", "-m", self.tiny, *arguments, ranks=ranks, env=env)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def bench_json(self, *arguments, **options):
        return json.loads(self.bench(*arguments, "-o", "json", **options))

    def test_json_has_a_row_for_every_test_and_number_of_threads(self):
        for ranks, rows in self.rows.items():
            tests = [(r["n_threads"], r["n_depth"], r["n_prompt"], r["n_gen"]) for r in rows]
            sizes = ((8, 0), (16, 0), (0, 4))
            self.assertEqual(tests, [(t, d, *size) for t in (1, 2) for d in (0, 5) for size in sizes])
            for row in rows:
                for field in LLAMA_BENCH_FIELDS + OUR_FIELDS:
                    self.assertIn(field, row)
                self.assertEqual(row["ranks"], ranks)

    def test_numbers_agree_with_each_other(self):
        for row in self.rows[1]:
            tokens = row["n_prompt"] + row["n_gen"]
            self.assertEqual(len(row["samples_ns"]), 3)
            self.assertAlmostEqual(sum(row["samples_ns"]) / 3, row["avg_ns"], delta=1)
            self.assertAlmostEqual(sum(row["samples_ts"]) / 3, row["avg_ts"], places=3)
            self.assertAlmostEqual(row["samples_ts"][0] / (tokens / row["samples_ns"][0] * 1e9), 1, places=5)
            of_peak = (row["read_gb_per_s"] / row["peak_read_gb_per_s"] if row["n_gen"] else
                       row["multiply_gmac_per_s"] / row["peak_multiply_gmac_per_s"])
            self.assertAlmostEqual(row["peak_fraction"], of_peak, places=9)

    def test_bytes_per_token_are_the_weights(self):
        """The tiny model's embedding is its head too, so that a token reads every byte once, on any number of ranks."""
        manifest = json.loads((self.tiny / "manifest.json").read_text())
        expected = sum(d["size_bytes"] for f in manifest["files"] for d in f["datasets"] if f["name"] != "tokenizer.h5")
        for rows in self.rows.values():
            for row in rows:
                self.assertEqual(row["model_size"], expected)
                if row["n_gen"] > 0 and row["n_depth"] == 0:
                    self.assertEqual(row["bytes_per_token"], expected)

    def test_what_ranks_send(self):
        """Every repetition of a prompt sends its residual, 64 values of 2 bytes a token, from rank 0 to rank 1."""
        row = self.bench_json("-p", "16", "-n", "0", "-r", "2", "--chunk", "4", ranks=2)[0]
        sent = [r["sent_bytes"] for r in row["per_rank"]]
        self.assertGreater(sent[0], 2 * 16 * 64 * 2)
        self.assertLess(sent[0], 2 * 16 * 64 * 2 + 4096)
        self.assertGreater(sent[1], 0)
        self.assertTrue(all(r["wait_s"] >= 0 for r in row["per_rank"]))
        for alone in self.rows[1]:
            self.assertEqual([r["sent_bytes"] for r in alone["per_rank"]], [0])

    def test_csv(self):
        for ranks in (1, 2):
            text = self.bench("-p", "8", "-n", "4", "-r", "2", "-o", "csv", ranks=ranks)
            rows = list(csv.DictReader(io.StringIO(text)))
            self.assertEqual([(r["n_prompt"], r["n_gen"]) for r in rows], [("8", "0"), ("0", "4")])
            for row in rows:
                self.assertGreater(float(row["avg_ts"]), 0)
                self.assertEqual(len(row["sent_bytes_by_rank"].split()), ranks)
                self.assertNotIn(None, row)  # no cell without a title
                self.assertNotIn(None, row.values())

    def test_markdown(self):
        for ranks, columns in ((1, 9), (2, 11)):
            lines = self.bench("-p", "8", "-n", "4", "-r", "2", "-d", "0,3", "-t", "1", ranks=ranks).splitlines()
            table = [line for line in lines if line.startswith("|")]
            self.assertEqual({len(line.strip("|").split("|")) for line in table}, {columns})
            self.assertEqual([row.split("|")[7].strip() for row in table[2:]], ["pp8", "tg4", "pp8 @ d3", "tg4 @ d3"])
            self.assertEqual(sum(line.startswith("peak of rank") for line in lines), ranks)

    def test_without_warm_up_and_without_a_multiply_instruction(self):
        rows = self.bench_json("-p", "8", "-n", "0", "-r", "1", "--no-warmup", env={"JUPITER_KERNELS": "reference"})
        self.assertEqual(rows[0]["kernels"], "reference")
        self.assertIsNone(rows[0]["peak_multiply_gmac_per_s"])
        self.assertIsNone(rows[0]["peak_fraction"])
        self.assertIn("no int8 instruction", self.bench("-p", "8", "-n", "0", "-r", "1",
                                                        env={"JUPITER_KERNELS": "reference"}))

    def test_bad_input(self):
        for arguments, words in ((["-o", "xml"], ["-o", "md, csv or json", "xml"]), (["-p", "1025"], ["1024", "1025"]),
                                 (["-p", "1000", "-d", "100"], ["1024", "1100"]),
                                 (["-c", "64", "-p", "65", "-n", "0"], ["64", "65"]), (["-p", "8,x"], ["x"]),
                                 (["-p", "-1"], ["--n-prompt", "-1"]),
                                 (["-p", "0", "-n", "0"], ["-p and -n"]), (["-r", "0"], ["-r"]),
                                 (["-t", "1,0"], ["--threads"])):
            for ranks in (1, 2):
                with self.subTest(arguments=arguments, ranks=ranks):
                    self.assert_fails(jupiter("bench", "-m", self.tiny, *arguments, ranks=ranks), 2, *words)
        self.assert_fails(jupiter("bench"), 2, "-m")
        self.assert_fails(jupiter("bench", "-m", self.folder / "nowhere"), 3, "nowhere")
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "-t", "1,2"), 2, "--threads")
        with open("/dev/full", "w", encoding="utf-8") as full:
            result = jupiter("bench", "-m", self.tiny, "-p", "8", "-n", "0", stdout=full)
        self.assert_fails(result, 1, "standard output")


if __name__ == "__main__":
    unittest.main()
