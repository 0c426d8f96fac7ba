// The server's side of one HTTP/2 connection that carries gRPC, without any input or output of its own.
//
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>

#include <nghttp2/nghttp2.h>
#include <pybind11/pybind11.h>

namespace torchyard {

// The peer does not speak HTTP/2: the connection is of no use any more.
struct ProtocolError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a connection may hold: calls at once, bytes of one message, bytes of all unfinished messages, bytes of headers.
struct Limits {
  uint32_t calls;
  size_t message;
  size_t messages;
  size_t headers;
};

// The bytes of a Python object, which is kept as long as this is.
class Lent {
 public:
  explicit Lent(pybind11::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) {
      throw pybind11::error_already_set();
    }
  }
  Lent(Lent&& other) noexcept : view_(std::exchange(other.view_, {})) {}
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  ~Lent() { PyBuffer_Release(&view_); }

  std::string_view bytes() const { return {static_cast<const char*>(view_.buf), static_cast<size_t>(view_.len)}; }

 private:
  Py_buffer view_{};
};

// What waits to go out.
using Outgoing = std::variant<std::string, Lent>;

// What happened to a call; `server/http2.py` says what comes with each.
enum Event : int { kOpened = 0, kMessage = 1, kEnded = 2, kTooLarge = 3, kClosed = 4 };

// A call: what has come of its next message, and what waits to go out.
struct Call {
  std::string path, method, content_type, timeout, encoding;
  size_t header_bytes = 0;

  uint8_t prefix[5];
  size_t prefix_size = 0;
  pybind11::object message;
  size_t message_size = 0;
  size_t received = 0;
  bool ignored = false;

  std::deque<Outgoing> outgoing;
  size_t sent = 0;
  bool opened = false;
  bool closing = false;
  std::string status, details;
};

class Session {
 public:
  // `encodings` are those of messages that the peer may send, as grpc-accept-encoding names them.
  Session(Limits limits, std::string encodings);

  // Takes bytes of the peer and returns what they brought, as a list of tuples (event, call, ...).
  // Throws ProtocolError.
  pybind11::list receive(const pybind11::buffer& bytes);

  // Up to a quarter of a mebibyte for the peer; empty when there is nothing to say, or the peer takes no more.
  pybind11::bytes outgoing();

  // Queues one message of an answer, whose parts are bytes-like. `encoding` is the grpc-encoding of the first one, or
  // empty.
  void send(int32_t call, const pybind11::sequence& parts, bool compressed, std::string_view encoding);

  // Ends a call with a status. `details` are percent-encoded, and `http` is HTTP's status where nothing was sent yet.
  void close(int32_t call, std::string_view status, std::string_view details, std::string_view http);

  // send() and close() with status 0 in one.
  void answer(int32_t call, const pybind11::sequence& parts);

  // Tells the peer to make its next calls elsewhere; with `at_once` those that are on their way are refused, too.
  void go_away(bool at_once);

  // The bytes that have come of messages that are not complete, and those of answers that have not gone out.
  size_t held() const { return held_ + unsent_; }
  size_t unsent() const { return unsent_; }

  // The bytes that have come of a call's message that is not complete.
  size_t received(int32_t call);

  // Whether there is nothing left to take or to say.
  bool over() const {
    return nghttp2_session_want_read(session_.get()) == 0 && nghttp2_session_want_write(session_.get()) == 0;
  }

  // Whether a call is open in either direction.
  bool busy() const { return !calls_.empty(); }

 private:
  static int on_begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int on_header(
      nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size, const uint8_t* value,
      size_t value_size, uint8_t flags, void* self);
  static int on_frame(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int on_data(
      nghttp2_session*, uint8_t flags, int32_t stream, const uint8_t* data, size_t size, void* self);
  static int on_frame_sent(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int on_stream_close(nghttp2_session*, int32_t stream, uint32_t error, void* self);
  static nghttp2_ssize read(
      nghttp2_session*, int32_t stream, uint8_t* out, size_t size, uint32_t* flags, nghttp2_data_source*, void* self);

  Call* find(int32_t call);
  void take(int32_t id, Call& call, const uint8_t* data, size_t size);
  bool begin_message(int32_t id, Call& call);
  void make_room(Call& call, size_t needed);
  void forget_message(Call& call);
  void open(int32_t id, Call& call, std::string_view encoding);

  Limits limits_;
  std::string encodings_;
  size_t unfinished_ = 0;
  size_t held_ = 0;
  size_t unsent_ = 0;
  pybind11::list events_;
  std::unordered_map<int32_t, Call> calls_;
  std::unique_ptr<nghttp2_session, decltype(&nghttp2_session_del)> session_{nullptr, nghttp2_session_del};
};

}  // namespace torchyard
