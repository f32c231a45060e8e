# Action Cable without the rest of Rails. Whoever names the token "secret" is let in; rooms are open unless they are "closed".
require "action_cable"

class Connection < ActionCable::Connection::Base
  identified_by :name

  def connect
    reject_unauthorized_connection unless request.params["token"] == "secret"
    self.name = "relay"
  end
end

class RoomChannel < ActionCable::Channel::Base
  def subscribed
    params[:room] == "closed" ? reject : stream_from(stream)
  end

  def speak(data)
    ActionCable.server.broadcast(stream, { said: data["text"] })
  end

  private

  def stream
    "room:#{params[:room]}"
  end
end

config = ActionCable.server.config
config.logger = Logger.new(File::NULL)
config.cable = { "adapter" => "async" }
config.connection_class = -> { Connection }
config.disable_request_forgery_protection = true
run ActionCable.server
