-- wrk's script: one request, taken from the environment, sent over and over; every reply must be 200 with exactly the
-- expected body. Ends with one line for the program that started wrk: BENCH and nine numbers, then the first wrong reply.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(_)
  expected = os.getenv("BENCH_EXPECTED")
  wrong, example = 0, ""
  for name, value in os.getenv("BENCH_HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do
    wrk.headers[name] = value
  end
  local body = os.getenv("BENCH_BODY")
  wrk.method = os.getenv("BENCH_METHOD")
  if body ~= "" then wrk.body = body end
end

function response(status, _, body)
  if status == 200 and body == expected then return end
  wrong = wrong + 1
  if wrong == 1 then example = status .. " " .. body:sub(1, 300):gsub("%s", " ") end
end

function done(summary, latency, _)
  local errors, bad, first = summary.errors, 0, ""
  for _, thread in ipairs(threads) do
    bad = bad + thread:get("wrong")
    first = first == "" and thread:get("example") or first
  end
  print(string.format("BENCH %d %d %d %d %d %d %d %d %d %s", summary.duration, summary.requests, bad, errors.connect,
    errors.read, errors.write, errors.timeout, latency:percentile(50), latency:percentile(99), first))
end
