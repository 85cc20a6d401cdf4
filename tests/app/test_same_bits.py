"""Same bits everywhere: logits_hash does not depend on ranks, chunks, threads or kernels."""
import json
import unittest

from program import REAL_MODEL, ROOT, ProgramTest, jupiter

PROMPTS = ["How can I improve my time management skills?", "Write a haiku about the sea.",
           "Explain in three sentences why the sky is blue, and what that has to do with sunsets. " * 4]


class SameBits(ProgramTest):
    def check_variants(self, model, prompt, variants, *common):
        first = None
        for ranks, arguments, env in variants:
            j = self.run_json(model, "-p", prompt, *common, *arguments, ranks=ranks, env=env)
            found = (j["logits_hash"], j["generated_token_ids"])
            first = first or found
            self.assertEqual(found, first, f"{ranks} ranks, {arguments}, {env}")

    def test_tiny_model(self):
        ranks = [(p, [], None) for p in (1, 2, 3, 4, 30)]
        chunks = [(2, ["--chunk", c], None) for c in (1, 16, 128, 512)]
        threads = [(1, ["-t", "2"], None), (3, ["-t", "2", "--chunk", "7"], None)]
        tables = [(1, [], {"JUPITER_KERNELS": "reference"})]
        self.check_variants(self.tiny, PROMPTS[2], ranks + chunks + threads + tables, "--raw", "-n", "24")

    def test_architectures(self):
        """Small models of other architectures; float weights and, where their widths allow it, 8 bits."""
        for name, quantised in (("gemma2", True), ("gemma3", True), ("smollm3", False), ("qwen2moe", True),
                                ("qwen3moe", True), ("granitemoe", True)):
            source = ROOT / "tests/data/architectures" / name
            layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
            for quant in ["f32", "q8"] if quantised else ["f32"]:
                model = self.folder / f"{name}-{quant}"
                done = jupiter("convert", source, "-o", model, "--quant", quant)
                self.assertEqual(done.returncode, 0, done.stderr)
                variants = [(p, [], None) for p in range(1, layers + 1)]
                variants += [(2, ["--chunk", "3"], None), (1, ["-t", "2", "--chunk", "16"], None),
                             (1, ["--decode", "plain"], {"JUPITER_KERNELS": "reference"})]
                self.check_variants(model, PROMPTS[0], variants, "--raw", "-n", "24")

    def test_sampling(self):
        variants = [(1, [], None), (2, [], None), (3, ["--chunk", "5"], None)]
        self.check_variants(self.tiny, PROMPTS[0], variants, "--raw", "-n", "24", "--temp", "0.8", "--seed", "7",
                            "--repeat-penalty", "1.1")

    def test_cache_types(self):
        for kind in ("f32", "q8_0"):
            model = self.folder / "wide-heads"
            if not model.exists():
                self.synth_wide_heads(model)
            self.check_variants(model, PROMPTS[0], [(1, [], None), (2, ["--chunk", "3"], None)], "--raw", "-n", "8",
                                "-ctk", kind, "-ctv", kind)

    def synth_wide_heads(self, model):
        self.assertEqual(jupiter("synth", "--shape", "smollm2-135m", "--layers", "2", "-o", model).returncode, 0)

    @unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
    def test_real_model(self):
        variants = [(1, [], None), (2, ["-t", "2"], None), (3, ["--chunk", "16"], None), (4, [], None)]
        for prompt in PROMPTS:
            self.check_variants(REAL_MODEL, prompt, variants, "-n", "64")


if __name__ == "__main__":
    unittest.main()
