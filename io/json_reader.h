#pragma once

#include <simdjson.h>
#include <tierstream/io/error.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace tierstream {

/// Strict JSON: simdjson's On-Demand parser, walked so that no token goes unvalidated. UTF-8 is checked,
/// nesting is bounded, duplicate keys and anything after the end are refused, and every error names its byte.
///
///   JsonReader reader(bytes, {.file = path, .errc = Errc::kInvalidIndex});
///   reader.read_object([&](const std::string& key, JsonReader::Value value) {
///     if (key == "size") size = value.unsigned_integer(); else value.skip();
///   });
///
/// Memory is bounded by the text: values are handed out one after the other and never kept.
/// Errors: everything throws Error with `errc`, naming the file and the byte in it.
class JsonReader {
 public:
  /// serde_json's limit, so that nested extra fields are judged as the reference judges them.
  static constexpr int kMaxDepth = 127;

  struct Source {
    std::string file;
    Errc errc;
    std::uint64_t first_byte = 0;  ///< where the text begins in the file
  };

  JsonReader(std::span<const std::byte> text, Source source)
      : source_(std::move(source)), text_(reinterpret_cast<const char*>(text.data()), text.size()) {}
  JsonReader(const JsonReader&) = delete;
  JsonReader& operator=(const JsonReader&) = delete;

  /// A value that has not been read yet. Exactly one of the reading functions is called, before the visitor
  /// that got it returns.
  class Value {
   public:
    std::string string();
    std::uint64_t unsigned_integer();
    bool is_null();  ///< does not count as reading when it is false
    /// `visit(Value)` for each element.
    template <typename Visit>
    void read_array(Visit visit);
    /// `visit(const std::string& key, Value)` for each member.
    template <typename Visit>
    void read_object(Visit visit);
    /// Validates the value, whatever it is, and forgets it.
    void skip();

    /// Throws an Error that points at this value. Before and after reading.
    [[noreturn]] void refuse(Errc errc, const std::string& message) const {
      reader_.refuse(errc, message, position_);
    }

   private:
    friend class JsonReader;
    Value(JsonReader& reader, simdjson::ondemand::value value, int depth)
        : reader_(reader), value_(value), position_(reader.position()), depth_(depth) {}

    void enter() const {
      if (depth_ >= kMaxDepth) refuse("nested too deeply");
    }
    [[noreturn]] void refuse(const std::string& message) const { refuse(reader_.source_.errc, message); }
    void check(simdjson::error_code error, const char* wanted) const;

    JsonReader& reader_;
    simdjson::ondemand::value value_;
    std::size_t position_;
    int depth_;  ///< of containers around the value
  };

  /// The text is one object; `visit(const std::string& key, Value)` is called for each member.
  template <typename Visit>
  void read_object(Visit visit);

  /// Errors name this tensor from now on; empty: none.
  void set_tensor(const std::string& name) { tensor_ = name; }

 private:
  [[noreturn]] void refuse(Errc errc, const std::string& message, std::size_t position) const {
    throw Error(errc, message,
                {.file = source_.file, .tensor = tensor_, .offset = source_.first_byte + position});
  }
  [[noreturn]] void refuse(const std::string& message, std::size_t position) const {
    refuse(source_.errc, message, position);
  }
  void check(simdjson::error_code error) const {
    if (error) refuse(message_of(error), position());
  }
  /// Of the token that comes next or, after an error in the structure, of the wrong one.
  std::size_t position() const;
  static const char* message_of(simdjson::error_code error);
  std::size_t first_malformed_character() const;
  std::size_t first_malformed_string() const;

  template <typename Visit>
  void visit_members(simdjson::ondemand::object object, int depth, Visit& visit);

  Source source_;
  std::string tensor_;
  simdjson::padded_string text_;
  simdjson::ondemand::parser parser_;
  mutable simdjson::ondemand::document document_;  // asking for a position is not const in simdjson
};

inline std::size_t JsonReader::position() const {
  const char* location = nullptr;
  if (document_.current_location().get(location)) return text_.size();
  return static_cast<std::size_t>(location - text_.data());
}

inline const char* JsonReader::message_of(simdjson::error_code error) {
  switch (error) {
    case simdjson::UTF8_ERROR:
      return "not UTF-8";
    case simdjson::UNCLOSED_STRING:
      return "invalid JSON (a string without an end)";
    case simdjson::UNESCAPED_CHARS:
      return "invalid JSON (a control character in a string)";
    case simdjson::STRING_ERROR:
      return "invalid JSON (an escape in a string)";
    case simdjson::NUMBER_ERROR:
      return "invalid JSON (a number)";
    case simdjson::EMPTY:
      return "invalid JSON (no text)";
    case simdjson::INCOMPLETE_ARRAY_OR_OBJECT:
      return "invalid JSON (it does not end with its closing brace)";
    case simdjson::MEMALLOC:
      throw std::bad_alloc();
    default:
      return "invalid JSON";
  }
}

inline std::size_t JsonReader::first_malformed_character() const {
  const std::string_view text = text_;
  std::size_t at = 0;
  while (at < text.size()) {
    const auto lead = static_cast<unsigned char>(text[at]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (at + length > text.size() || !simdjson::validate_utf8(text.substr(at, length))) break;
    at += length;
  }
  return at;
}

inline std::size_t JsonReader::first_malformed_string() const {
  const std::string_view text = text_;
  bool inside = false;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '"') {
      inside = !inside;
      begin = at;
    } else if (inside && text[at] == '\\') {
      ++at;
    } else if (inside && static_cast<unsigned char>(text[at]) < 0x20) {
      return at;
    }
  }
  return begin;
}

template <typename Visit>
void JsonReader::visit_members(simdjson::ondemand::object object, int depth, Visit& visit) {
  std::unordered_set<std::string> seen;
  for (simdjson::simdjson_result<simdjson::ondemand::field> member : object) {
    simdjson::ondemand::field field;
    check(std::move(member).get(field));
    const auto key_position = static_cast<std::size_t>(field.key().raw() - 1 - text_.data());
    Value value(*this, field.value(), depth);
    std::string_view unescaped;
    // Asked of a result: field's own unescaped_key takes no argument in some simdjson 3.x and one in others.
    simdjson::simdjson_result<simdjson::ondemand::field> consumed(std::move(field));
    if (auto error = consumed.unescaped_key().get(unescaped)) refuse(message_of(error), key_position);
    const auto [key, is_new] = seen.emplace(unescaped);
    if (!is_new) refuse("duplicate key \"" + *key + "\"", key_position);
    visit(*key, value);
  }
}

template <typename Visit>
void JsonReader::read_object(Visit visit) {
  const simdjson::error_code error = parser_.iterate(text_).get(document_);
  // These are found before the walk begins, so there is no current token to point at.
  if (error == simdjson::UTF8_ERROR) refuse(message_of(error), first_malformed_character());
  if (error == simdjson::UNCLOSED_STRING || error == simdjson::UNESCAPED_CHARS) {
    refuse(message_of(error), first_malformed_string());
  }
  if (error) refuse(message_of(error), 0);

  simdjson::ondemand::object object;
  if (auto not_an_object = document_.get_object().get(object)) {
    if (not_an_object == simdjson::INCORRECT_TYPE) refuse("expected an object", 0);
    // simdjson looks at the last token first: it is not the brace that it has to be.
    refuse(message_of(not_an_object), text_.size());
  }
  visit_members(object, 1, visit);
  if (position() != text_.size()) refuse("text after the end of the JSON", position());
}

inline void JsonReader::Value::check(simdjson::error_code error, const char* wanted) const {
  if (!error) return;
  if (error == simdjson::STRING_ERROR || error == simdjson::NUMBER_ERROR) refuse(message_of(error));
  refuse(std::string("expected ") + wanted);
}

inline std::string JsonReader::Value::string() {
  std::string_view unescaped;
  check(value_.get_string().get(unescaped), "a string");
  return std::string(unescaped);
}

inline std::uint64_t JsonReader::Value::unsigned_integer() {
  std::uint64_t number = 0;
  // Of a number, simdjson does not tell a malformed one from a negative one, a fraction or too large a one.
  if (value_.get_uint64().get(number)) refuse("expected an unsigned integer");
  return number;
}

inline bool JsonReader::Value::is_null() {
  bool null = false;
  check(value_.is_null().get(null), "null");
  return null;
}

template <typename Visit>
void JsonReader::Value::read_array(Visit visit) {
  enter();
  simdjson::ondemand::array array;
  check(value_.get_array().get(array), "an array");
  for (simdjson::simdjson_result<simdjson::ondemand::value> result : array) {
    simdjson::ondemand::value element;
    reader_.check(std::move(result).get(element));
    visit(Value(reader_, element, depth_ + 1));
  }
}

template <typename Visit>
void JsonReader::Value::read_object(Visit visit) {
  enter();
  simdjson::ondemand::object object;
  check(value_.get_object().get(object), "an object");
  reader_.visit_members(object, depth_ + 1, visit);
}

inline void JsonReader::Value::skip() {
  simdjson::ondemand::json_type type{};
  check(value_.type().get(type), "a value");
  switch (type) {
    case simdjson::ondemand::json_type::array:
      return read_array([](Value element) { element.skip(); });
    case simdjson::ondemand::json_type::object:
      return read_object([](const std::string&, Value member) { member.skip(); });
    case simdjson::ondemand::json_type::string:
      string();
      return;
    case simdjson::ondemand::json_type::number:
      return check(value_.get_double().error(), "a number");
    case simdjson::ondemand::json_type::boolean:
      return check(value_.get_bool().error(), "a boolean");
    case simdjson::ondemand::json_type::null:
      if (!is_null()) check(simdjson::INCORRECT_TYPE, "null");
      return;
  }
}

}  // namespace tierstream
