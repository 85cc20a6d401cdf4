// Requests of a batch: lines of a JSONL file, and the answers that are there already.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "app/output_format.hpp"
#include "app/prompt.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

struct BatchRequest {
  std::int64_t line = 0;  // from 1
  std::string id;         // as JSON text: "a" and 1 are different ids
  std::string fault;      // not empty: this line cannot be answered
  std::vector<ChatMessage> messages;
  bool answered = false;  // the last message is the answer
  std::string prompt;     // where there are no messages
  std::int64_t max_tokens = 0;
  SamplingOptions sampling;
  std::vector<std::string> stops;
  GrammarSpec grammar;
};

// Every line of a file's text, empty ones left out; a line that cannot be used has a fault, and an id if one can be
// read. Fields that a line does not have are those of `defaults`; where these are answered, messages may end with the
// assistant's.
std::vector<BatchRequest> read_requests(const std::string& text, const std::string& file, const BatchRequest& defaults);

// An output file that grows line by line; each line is on the disk when write() returns.
class AnswerFile {
 public:
  // Without `resume` a file that holds something is refused (UsageError). With it, answers that are there are read, and
  // a last line that was cut off is taken away. FormatError where a line is not one that this program writes, or is
  // another model's: the file stays as it is, then. UsageError where it is the same file as `input`. RunError where
  // another batch has it open (file systems without locks: not noticed).
  AnswerFile(const std::string& path, bool resume, const std::string& model_hash, const std::string& input);
  ~AnswerFile();
  AnswerFile(const AnswerFile&) = delete;
  AnswerFile& operator=(const AnswerFile&) = delete;

  // Ids, as JSON text, of what is answered; and the errors of those whose last line is one.
  const std::set<std::string>& done() const { return done_; }
  const std::map<std::string, std::string>& failed() const { return failed_; }
  // RunError where the line cannot be written; the file then ends with the line before.
  void write(const std::string& line);

 private:
  void read_done(const std::string& model_hash);
  void read_line(const JsonObject& line, const std::string& model_hash);
  std::string path_;
  int fd_ = -1;
  std::int64_t end_ = 0;
  std::set<std::string> done_;
  std::map<std::string, std::string> failed_;
};

}  // namespace jupiter
