"""Bad input: one clear message, the right exit code, every rank ends."""
import json
import os
import shutil
import struct
import subprocess
import time
import unittest

from program import JUPITER, MPIRUN, ROOT, ProgramTest, jupiter

ARCHITECTURES = ROOT / "tests" / "data" / "architectures"


def flip_weight(shard):
    """One bit of a norm's weights (all ones in a random model), not of HDF5's own data."""
    at = shard.index(struct.pack("<f", 1.0) * 16) + 4
    return shard[:at] + bytes([shard[at] ^ 1]) + shard[at + 1:]


class CommandLine(ProgramTest):
    def test_usage(self):
        for arguments, word in ((["frobnicate"], "frobnicate"), (["run"], "-m"), (["run", "-m", self.tiny, "--no-such"], "no-such"),
                                (["run", "-m", self.tiny, "--raw", "-p", "x", "-n", "0"], "-n"),
                                (["run", "-m", self.tiny, "--raw", "-p", "x", "--temp", "-1"], "--temp"),
                                (["run", "-m", self.tiny, "--raw", "-p", "x", "-c", "99999"], "1024"),
                                (["run", "-m", self.tiny, "-p", "x"], "--chat-template"),
                                (["run", "-m", self.tiny, "--chat-template", "nope", "-p", "x"], "nope"),
                                (["run", "-m", self.tiny, "--raw", "-p", "x", "-ctk", "f8"], "f8"),
                                (["synth", "--shape", "huge", "-o", self.folder / "x"], "huge"),
                                (["convert", "x", "-o", "y", "--quant", "q3"], "q3")):
            for ranks in (1, 2):
                if ranks == 2 and arguments[0] in ("synth", "convert"):
                    continue
                with self.subTest(arguments=arguments, ranks=ranks):
                    self.assert_fails(jupiter(*arguments, ranks=ranks), 2, word)

    def test_prompts(self):
        empty = self.folder / "empty.txt"
        empty.write_text("")
        broken = self.folder / "broken.txt"
        broken.write_bytes(b"abc\xff\xfe")
        for ranks in (1, 3):
            run = ["run", "-m", self.tiny, "--raw"]
            self.assert_fails(jupiter(*run, "-p", "", ranks=ranks), 2, "prompt")
            self.assert_fails(jupiter(*run, "-f", empty, ranks=ranks), 2, "prompt")
            self.assert_fails(jupiter(*run, "-f", broken, ranks=ranks), 3, "broken.txt", "0xff", "offset 3")
            self.assert_fails(jupiter(*run, "-f", self.folder / "none.txt", ranks=ranks), 3, "none.txt")
            self.assert_fails(jupiter(*run, "-p", "long " * 100, "-c", "64", ranks=ranks), 2, "64", "500")

    def test_more_ranks_than_layers(self):
        small = self.folder / "two-layers"
        self.assertEqual(jupiter("synth", "--shape", "tiny", "--layers", "2", "-o", small).returncode, 0)
        self.assert_fails(jupiter("run", "-m", small, "--raw", "-p", "x", ranks=3), 2, "2 ranks", "found 3")

    def test_srun_without_pmi(self):
        result = jupiter("run", "-m", self.tiny, "--raw", "-p", "x", env={"SLURM_NTASKS": "4", "SLURM_PROCID": "0"})
        self.assert_fails(result, 2, "srun", "--mpi")

    def test_unwritable_output(self):
        missing = self.folder / "no" / "such" / "out.json"
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--json", missing, ranks=2), 1, "out.json")
        with open("/dev/full", "w", encoding="utf-8") as full:
            result = subprocess.run([JUPITER, "run", "-m", str(self.tiny), "--raw", "-p", "x", "-n", "4"], stdout=full,
                                    stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("standard output", result.stderr)

    def test_numbers_outside_their_range(self):
        run = ["run", "-m", self.tiny, "--raw", "-p", "x"]
        numbers = {"-c": ["0", "-1", "2147483648", "9223372036854775807", "9223372036854775808", "1e30", "2.5"],
                   "-n": ["0", "-1", "9223372036854775808", "1e30"],
                   "--chunk": ["0", "-1", "2147483648", "9223372036854775807", "1e30"],
                   "--cache-tokens": ["0", "-1", "2147483648", "9223372036854775807"],
                   "-t": ["0", "-1", "1025", "2147483647", "2147483648", "1e30"],
                   "--top-k": ["-1", "2147483648"], "--seed": ["-1", "18446744073709551616"],
                   "--timeout": ["0", "-1", "2147483648"]}
        for option, values in numbers.items():
            for value in values:
                with self.subTest(option=option, value=value):
                    self.assert_fails(jupiter(*run, option, value), 2)
        requests = self.folder / "requests.jsonl"
        requests.write_text('{"id":1,"prompt":"x"}\n')
        batch = ["batch", "-m", self.tiny, "-i", requests, "-o", self.folder / "never.jsonl", "--raw"]
        text = ["eval", "-m", self.tiny, "--text", requests]
        bench = ["bench", "-m", self.tiny, "-r", "1"]
        most = "9223372036854775807"
        for arguments in ([*batch, "--parallel", "0"], [*batch, "--parallel", most], [*batch, "--cache-tokens", most],
                          [*batch, "-n", "0"], [*text, "--window", most], [*text, "--window", "1"],
                          [*text, "--stride", "0"], [*text, "--stride", most], [*text, "--tokens", "1"],
                          [*bench, "-p", most], [*bench, "-n", "-1"], [*bench, "-d", most], [*bench, "-r", "0"],
                          [*bench, "-p", "2147483647"], ["plan", "-m", self.tiny, "-p", most, "-n", most],
                          ["plan", "-m", self.tiny, "-c", most], ["plan", "-m", self.tiny, "--max-chunk", most],
                          ["profile", "-m", self.tiny, "--context", most, "-o", self.folder / "c"],
                          ["profile", "-m", self.tiny, "--memory", most, "-o", self.folder / "c"],
                          ["train-draft", "-m", self.tiny, "-o", "x", "-n", most]):
            with self.subTest(arguments=arguments[:1] + arguments[3:]):
                self.assert_fails(jupiter(*arguments), 2)
        self.assertFalse((self.folder / "never.jsonl").exists())

    def test_more_new_tokens_than_the_context_has_are_all_of_it(self):
        for ranks in (1, 2):
            j = self.run_json(self.tiny, "--raw", "-p", "abc", "-c", "32", "-n", "9223372036854775807", ranks=ranks)
            self.assertEqual((len(j["generated_token_ids"]), j["finish_reason"]), (30, "length"))

    def test_texts_of_options_are_utf8(self):
        for option in ("--stop", "-sys"):
            for ranks in (1, 2):
                result = jupiter("run", "-m", self.tiny, "--chat-template", "chatml", "-p", "x", option, b"a\xff".decode(
                    errors="surrogateescape"), ranks=ranks)
                self.assert_fails(result, 2, option, "UTF-8", "0xff")

    def test_files_of_users_stay(self):
        """What is written takes no other file's place, and leaves nothing beside it."""
        place = self.folder / "place"
        place.mkdir()
        run = ["run", "-m", self.tiny, "--raw", "-n", "2"]
        kept = {"a.json.tmp": "mine", "prompt.txt": "hello", "target.json": "old"}
        for name, text in kept.items():
            (place / name).write_text(text)
        (place / "link.json").symlink_to("target.json")
        (place / "null.json").symlink_to("/dev/null")
        os.link(place / "prompt.txt", place / "hard.txt")
        before = set(os.listdir(place))
        for name in ("a.json", "link.json", "null.json"):
            result = jupiter(*run, "-p", "x", "--json", place / name, "--trace", place / "a.trace")
            self.assertEqual(result.returncode, 0, result.stderr)
        for name in ("link.json", "null.json"):
            self.assertTrue((place / name).is_symlink(), name)
        self.assertIn("logits_hash", json.loads((place / "target.json").read_text()))
        for arguments in (["-f", place / "prompt.txt", "--json", place / "hard.txt"],
                          ["-f", place / "prompt.txt", "--trace", f"{place}/./prompt.txt"],
                          ["-p", "x", "--json", place / "new.json", "--trace", f"{place}//new.json"]):
            for ranks in (1, 2):
                self.assert_fails(jupiter(*run, *arguments, ranks=ranks), 2, place)
        self.assert_fails(jupiter(*run, "-p", "x", "--json", place), 1, place)
        self.assertEqual((place / "a.json.tmp").read_text(), "mine")
        self.assertEqual((place / "prompt.txt").read_text(), "hello")
        text = ["eval", "-m", self.tiny, "--text", place / "prompt.txt", "--window", "4"]
        for option in ("--json", "--csv", "--junit", "--save-reference"):
            self.assert_fails(jupiter(*text, option, place / "hard.txt"), 2, "hard.txt")
        self.assertEqual((place / "prompt.txt").read_text(), "hello")
        self.assertEqual(set(os.listdir(place)) - before, {"a.json", "a.trace"})

    def test_nested_json(self):
        """200,000 levels, open and closed: an error of the file, everywhere that JSON is read."""
        deep = self.folder / "deep.json"
        hf = self.folder / "deep-hf"
        shutil.copytree(next(p for p in sorted(ARCHITECTURES.iterdir()) if (p / "config.json").exists()), hf)
        model = self.folder / "deep-model"
        shutil.copytree(self.tiny, model)
        run = ["run", "-m", self.tiny, "--raw", "-p", "x", "-n", "2"]
        def cases():
            yield deep, ["plan", "-m", self.tiny, "--cluster", deep]
            yield deep, [*run, "--plan", deep]
            yield deep, [*run, "--draft", f"oracle:1:{deep}"]
            yield deep, ["run", "-m", self.tiny, "-p", "x", "--chat-template", "chatml", "--outline", "always", "--outline-prompt", deep]
            yield deep, ["eval", "-m", self.tiny, "--golden", deep]
            yield deep, ["eval", "-m", self.tiny, "--choices", deep]
            yield deep, ["eval", "-m", self.tiny, "--self-check", "--baseline", deep]
            yield model / "manifest.json", ["run", "-m", model, "--raw", "-p", "x"]
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
                yield hf / name, ["convert", hf, "-o", self.folder / "never"]
        levels = 200000
        for text in ("[" * levels, "[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels):
            for path, command in cases():
                old = path.read_bytes() if path.exists() else b""
                path.write_text(text)
                with self.subTest(text=text[:6], command=[str(c) for c in command]):
                    result = jupiter(*command)
                    self.assert_fails(result, 3, path.name)
                    self.assertLess(len(result.stderr), 1000)
                path.write_bytes(old)
            source = hf / "model.safetensors"
            old = source.read_bytes()
            source.write_bytes(struct.pack("<Q", len(text)) + text.encode())
            self.assert_fails(jupiter("convert", hf, "-o", self.folder / "never"), 3, source.name)
            source.write_bytes(old)

    def test_memory(self):
        big = self.folder / "big"
        self.assertEqual(jupiter("synth", "--shape", "tiny", "-o", big).returncode, 0)
        manifest = json.loads((big / "manifest.json").read_text())
        manifest["config"]["max_seq_len_tokens"] = 1 << 28
        (big / "manifest.json").write_text(json.dumps(manifest))
        self.assert_fails(jupiter("run", "-m", big, "--raw", "-p", "x"), 4, "MiB", "-c")


class Shards(ProgramTest):
    def copy(self, name):
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.tiny, target)
        return target

    def check(self, model, code, *words):
        self.assert_fails(jupiter("run", "-m", model, "--raw", "-p", "x", "-n", "2"), code, *words)
        self.assert_fails(jupiter("run", "-m", model, "--raw", "-p", "x", "-n", "2", ranks=3), code, *words)

    def test_missing_model(self):
        self.check(self.folder / "nowhere", 3, "nowhere")
        self.check(self.tiny / "layer_0000.h5", 3, "folder")
        (self.folder / "hollow").mkdir()
        self.check(self.folder / "hollow", 3, "manifest.json")

    def test_missing_shard_on_one_rank_names_rank_and_file(self):
        model = self.copy("gap")
        (model / "layer_0020.h5").unlink()
        self.check(model, 3, "layer_0020.h5")
        result = jupiter("run", "-m", model, "--raw", "-p", "x", ranks=3)
        self.assertIn("rank 1", result.stderr)

    def test_ranks_need_only_their_shards(self):
        last = self.copy("last-only")
        for i in range(16):
            (last / f"layer_{i:04}.h5").unlink()
        first = self.copy("first-only")
        for i in range(16, 32):
            (first / f"layer_{i:04}.h5").unlink()
        run = ["run", "--raw", "-p", "x", "-n", "4", "-m"]
        command = [*MPIRUN, "-n", "1", JUPITER, *run, str(first), ":", "-n", "1", JUPITER, *run, str(last)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_ranks_that_disagree(self):
        other = self.folder / "other-seed"
        self.assertEqual(jupiter("synth", "--shape", "tiny", "--seed", "9", "-o", other).returncode, 0)
        run = ["run", "--raw", "-p", "x", "-n", "4", "-m"]
        command = [*MPIRUN, "-n", "1", JUPITER, *run, str(self.tiny), ":", "-n", "1", JUPITER, *run, str(other)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        self.assert_fails(result, 1, "model hash differs", "rank 1")

    def test_damaged_shards(self):
        cases = {
            "flipped byte": (flip_weight, "checksum"),
            "truncated": (lambda b: b[:len(b) // 2], "layer_0003.h5"),
            "not HDF5": (lambda b: b"hello" * 1000, "HDF5"),
            "empty": (lambda b: b"", "HDF5"),
        }
        for name, (damage, word) in cases.items():
            with self.subTest(name):
                model = self.copy("damaged")
                path = model / "layer_0003.h5"
                path.write_bytes(damage(path.read_bytes()))
                self.check(model, 3, "layer_0003.h5", word)
                result = jupiter("inspect", model, "--verify")
                self.assertEqual(result.returncode, 3)
                self.assertIn("BAD", result.stdout)
                self.assertIn("layer_0003.h5", result.stdout)

    def test_damage_behind_a_start_that_was_well(self):
        """What a start found whole is not read again, unless anything about the file changed."""
        model = self.copy("well")
        time.sleep(2.1)  # younger files are never remembered
        run = ("run", "-m", model, "--raw", "-p", "x", "-n", "2")
        for _ in range(2):
            result = jupiter(*run)
            self.assertEqual(result.returncode, 0, result.stderr)
        path = model / "layer_0003.h5"
        before = path.stat()
        path.write_bytes(flip_weight(path.read_bytes()))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.check(model, 3, "layer_0003.h5", "checksum")

    def test_missing_dataset_and_wrong_shape(self):
        model = self.copy("swapped")
        shutil.copy(model / "output.h5", model / "layer_0005.h5")
        self.check(model, 3, "layer_0005.h5", "dataset")
        wide = self.folder / "wide"
        self.assertEqual(jupiter("synth", "--shape", "tiny", "--quant", "q8", "-o", wide).returncode, 0)
        model = self.copy("swapped2")
        shutil.copy(wide / "layer_0005.h5", model / "layer_0005.h5")
        self.check(model, 3, "layer_0005.h5", "bytes")

    def test_no_verify_skips_checksums_only(self):
        model = self.copy("unverified")
        path = model / "layer_0003.h5"
        path.write_bytes(flip_weight(path.read_bytes()))
        self.assertEqual(jupiter("run", "-m", model, "--raw", "-p", "x", "-n", "2", "--no-verify").returncode, 0)

    def test_broken_manifests(self):
        text = (self.tiny / "manifest.json").read_text()
        edits = {"{": "JSON", "[]": "object", text.replace('"format_version": 1', '"format_version": 99'): "format_version",
                 text.replace('"dim": 64', '"dim": -64'): "dim", text.replace('"n_kv_heads": 2', '"n_kv_heads": 3'): "n_kv_heads",
                 text.replace('"architecture": "llama"', '"architecture": "mamba"'): "mamba",
                 text.replace('"dim": 64', '"dim": 128'): "expected",
                 text.replace('"format": "q4"', '"format": "q99"'): "q99"}
        model = self.copy("manifest")
        for edited, word in edits.items():
            self.assertNotEqual(edited, text)
            (model / "manifest.json").write_text(edited)
            with self.subTest(word):
                self.check(model, 3, word)


class Sources(ProgramTest):
    """Damaged GGUF and safetensors inputs of `convert`; every truncation is fed in the unit tests."""

    def convert(self, source, *options):
        target = self.folder / "converted"
        shutil.rmtree(target, ignore_errors=True)
        result = jupiter("convert", source, "-o", target, *options)
        self.assertFalse((target / "manifest.json").exists() and result.returncode != 0)
        return result, target

    def hf_folder(self, name="broken-hf"):
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(next(p for p in sorted(ARCHITECTURES.iterdir()) if (p / "config.json").exists()), target)
        return target

    def test_sources_that_are_none(self):
        self.assert_fails(self.convert(self.folder / "none.gguf")[0], 3, "none.gguf")
        junk = self.folder / "junk.gguf"
        junk.write_bytes(b"GGUF" + struct.pack("<I", 99) + b"\0" * 64)
        self.assert_fails(self.convert(junk)[0], 3, "junk.gguf", "99")
        (self.folder / "empty-folder").mkdir(exist_ok=True)
        self.assert_fails(self.convert(self.folder / "empty-folder")[0], 3, "empty-folder")

    def test_unknown_architecture(self):
        source = self.hf_folder()
        config = json.loads((source / "config.json").read_text())
        config["architectures"] = ["MambaForCausalLM"]
        (source / "config.json").write_text(json.dumps(config))
        self.assert_fails(self.convert(source)[0], 3, "Mamba")

    def test_nan_weights(self):
        source = self.hf_folder()
        path = source / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-4:] = struct.pack("<f", float("nan"))
        path.write_bytes(bytes(data))
        self.assert_fails(self.convert(source)[0], 3, "NaN")

    def test_full_disk_leaves_no_model(self):
        if os.geteuid() != 0:
            self.skipTest("mounting a small disk needs root")
        disk = self.folder / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=False).returncode != 0:
            self.skipTest("no tmpfs can be mounted here")
        try:
            result = jupiter("synth", "--shape", "tiny", "-o", disk / "model")
            self.assert_fails(result, 1, "disk")
            self.assertEqual([p.name for p in (disk / "model").iterdir()], [])
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_failed_conversion_keeps_the_earlier_model(self):
        target = self.folder / "keep"
        shutil.copytree(self.tiny, target)
        junk = self.folder / "junk2.gguf"
        junk.write_bytes(b"GGUF")
        self.assertEqual(jupiter("convert", junk, "-o", target).returncode, 3)
        self.assertEqual(jupiter("inspect", target, "--verify").returncode, 0)


if __name__ == "__main__":
    unittest.main()
